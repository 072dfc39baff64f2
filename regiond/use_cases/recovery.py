"""Recovery as an admin sees it: how far it is, beginning one by hand, ending the wait for clusters that do not come."""

from collections.abc import Collection
from typing import Protocol

from twisted.logger import Logger

from regiond.domain import errors
from regiond.domain.recovery import RecoveryView
from regiond.storage.changes import Change
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.requests import RequestContext


class RecoveryStore(Protocol):
    """`storage.recovery.RecoveryStore`, as far as it is needed here."""

    async def begin(self, change: Change, reason: str, of_history: str | None = None) -> str | None: ...

    async def end_waiting(self, change: Change, *, force: bool, without: Collection[str] = ()) -> tuple[str, ...]: ...

    async def was_done(self, change: Change) -> bool: ...

    async def view(self) -> RecoveryView: ...


class Settles(Protocol):
    """`hearing.Hearing`."""

    async def settle(self) -> None: ...


class Recoveries:
    """See the module; admins only."""

    _log = Logger(namespace="region.recovery")

    def __init__(self, store: RecoveryStore, settles: Settles) -> None:
        self._store = store
        self._settles = settles

    async def recovery(self, context: RequestContext) -> RecoveryView:
        """The recovery that goes on, or the latest one."""
        require_admin(context)
        return await self._store.view()

    async def begin(self, context: RequestContext, *, reason: str) -> RecoveryView:
        """Hear every cluster before anything is claimed again. Raises AlreadyRecovering."""
        require_admin(context)
        if await self._store.was_done(context.change):
            return await self._store.view()
        history = await self._store.begin(context.change, reason)
        if history is None:
            raise errors.AlreadyRecovering("a recovery goes on already: regionctl recover shows how far it is")
        self._log.warn(
            "{actor} has the region recover: {reason}",
            event="recovery.asked-for",
            actor=context.caller.name,
            reason=reason,
            history=history,
            request_id=context.request_id,
        )
        await self._settles.settle()
        return await self._store.view()

    async def end(self, context: RequestContext, *, force: bool, without: Collection[str] = ()) -> RecoveryView:
        """Wait for no more clusters, or not for those `without` which it is to go on; what the others have counts.

        Raises NotRecovering, NotAllHeard, InvalidRequest.
        """
        require_admin(context)
        if await self._store.was_done(context.change):
            return await self._store.view()
        names = await self._store.end_waiting(context.change, force=force, without=without)
        self._log.warn(
            "{actor} has the recovery go on without hearing {clusters}",
            event="recovery.cut-short",
            actor=context.caller.name,
            clusters=names,
            request_id=context.request_id,
        )
        await self._settles.settle()
        return await self._store.view()
