"""What people do with imports."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.task import deferLater

from regiond.domain import errors
from regiond.domain.ids import Prefix
from regiond.domain.importing import (
    ImportView,
)
from regiond.domain.lines import LineFormat
from regiond.storage.imports import ImportStore
from regiond.use_cases import inputs
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.steps import only_own

DEFAULT_WAIT_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.1


class Imports:
    """What people do with imports. An admin sees all, a user its own."""

    def __init__(self, clock: Any, store: ImportStore, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._store = store
        self._wake = wake

    async def create(
        self, context: RequestContext, form: LineFormat, content: bytes, *, dry_run: bool, ignored: Sequence[str]
    ) -> ImportView:
        """The import, over or not: waits for it as long as the request may wait."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise errors.InvalidRequest("", f"line {line} is not UTF-8: save the file as CSV UTF-8") from error
        if "\0" in text:
            raise errors.InvalidRequest("", f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a NUL in it")
        number = await self._store.create(context.change, form, text, dry_run=dry_run, ignored=ignored)
        self._wake()
        seconds = DEFAULT_WAIT_SECONDS if context.wait_seconds is None else context.wait_seconds
        end = self._clock.seconds() + seconds
        while True:
            (view,) = await self._store.views([number])
            if view.state.is_over or self._clock.seconds() >= end:
                return view
            await deferLater(self._clock, POLL_SECONDS)

    async def read_list(self, context: RequestContext, *, limit: int, after: str | None) -> Sequence[ImportView]:
        start = inputs.optional_id(Prefix.IMPORT, after, "after")
        return await self._store.views(account=only_own(context), limit=limit, after=start)

    async def read(self, context: RequestContext, import_id: str) -> ImportView:
        """Raises NotFound."""
        number = inputs.known_id(Prefix.IMPORT, import_id)
        found = await self._store.views([number], account=only_own(context))
        if not found:
            raise errors.NotFound(f"no import {import_id[:64]}: they are kept for a week")
        return found[0]
