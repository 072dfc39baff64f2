"""Reservations as a file of any size: read page by page, only as fast as somebody takes it.

An export is no snapshot, since a slow reader would hold a transaction open: each page is what was true when it was
read. Every reservation that was there from the beginning to the end is in it exactly once, in order of id; one that
came or went meanwhile is in it or not. A releasing one says so in the column `status`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from regiond.domain.ids import Prefix
from regiond.domain.lines import LineFormat, header, written
from regiond.storage.exports import ExportReads
from regiond.use_cases import inputs
from regiond.use_cases.filters import ReservationFilters
from regiond.use_cases.requests import RequestContext

PAGE: Final = 250  # reading and writing more would stall the reactor for over 20 ms


class Exports:
    """See the module. A user sees its own reservations only."""

    def __init__(self, reads: ExportReads, filters: ReservationFilters) -> None:
        self._reads = reads
        self._filters = filters

    async def export(
        self, context: RequestContext, form: LineFormat, *, filters: Mapping[str, Sequence[str]], after: str | None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of the file in pieces.

        The first page is read before this returns: what is wrong with the request is raised here. Later on
        DatabaseUnavailable can be raised in the middle.
        """
        wanted = await self._filters.read(context, filters)
        first = await self._reads.page(wanted, PAGE, inputs.optional_id(Prefix.RESERVATION, after, "after"))

        async def pieces() -> AsyncGenerator[bytes, None]:
            yield header(form)
            page = first
            while page:
                yield b"".join(written(form, line) for _, line in page)
                if len(page) < PAGE:
                    return
                page = await self._reads.page(wanted, PAGE, page[-1][0])

        return pieces()
