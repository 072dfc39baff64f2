"""Hears what clusters have of another past than the database's, and settles it with what the region knows.

See Note [Recovery]. Nothing is delivered to a cluster before it was heard, so that no evidence is overwritten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.commands import MAX_TRANSFER_COUNT
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.values import HostMap, Identifier
from regiond.cluster_rpc.connections import Connection
from regiond.domain.mutations import Actor
from regiond.storage.changes import Change
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.recovery import Evidence, subnet_name
from regiond.storage.settling import Settled

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 60.0

_REGION = Change(Actor(None, "region", is_admin=True), "recovery")


class Evidences(Protocol):
    """`storage.recovery.RecoveryStore`, as far as it is needed here."""

    async def begin(
        self, change: Change, reason: str, of_history: str | None = None, *, anew: bool = False
    ) -> str | None: ...

    async def finish(self) -> str | None: ...

    async def hearing(self, cluster: int, history: str) -> None: ...

    async def knows(self, history: str) -> bool: ...

    async def generation(self, subnet: int) -> int | None: ...

    async def take(self, evidence: Evidence) -> None: ...

    async def add_maps(
        self, cluster: int, name: str, host_maps: Sequence[HostMap], *, former: bool = False
    ) -> None: ...

    async def complete(self, cluster: int, name: str) -> None: ...

    async def drop(self, cluster: int, name: str) -> None: ...

    async def contradictions(self, cluster: int, name: str) -> int: ...

    async def heard(self, cluster: int) -> None: ...

    async def waits_for(self, cluster: int) -> bool: ...

    async def may_have(self, cluster: int) -> list[int]: ...

    async def to_settle(self) -> list[int]: ...

    async def settle(self, subnet: int) -> Settled | None: ...


class Hearing:
    """Asks one cluster after the other what it has; see the module. `most` is how many host maps of one subnet it may
    have, which is as many as it can have been given.
    """

    _log = Logger(namespace="region.recovery")

    def __init__(self, clock: Any, store: Evidences, most: int = MAX_TRANSFER_COUNT) -> None:
        self._clock = clock
        self._store = store
        self._most = most

    async def begin(self, reason: str, of_history: str | None) -> None:
        """Begin a recovery, unless one goes on or somebody else was faster. Every cluster connects anew."""
        await self._begin(reason, of_history, anew=False)

    async def begin_anew(self, reason: str, of_history: str | None) -> None:
        """Also when one goes on: the database itself went back, perhaps into the middle of that one."""
        await self._begin(reason, of_history, anew=True)

    async def _begin(self, reason: str, of_history: str | None, *, anew: bool) -> None:
        history = await self._store.begin(_REGION, reason, of_history, anew=anew)
        if history is not None:
            self._log.warn(
                "the database went back in time, recovering: {reason}",
                event="recovery.begun",
                reason=reason,
                history=history,
            )

    async def expects(self, connection: Connection, history: str) -> None:
        """This cluster registered with another past: note it, and begin a recovery if nobody knows of that past."""
        if not await self._store.knows(history):
            reason = f"cluster {connection.name} has history {history}, which the database does not know"
            await self.begin(reason, connection.history)
        await self._store.hearing(connection.cluster, history)

    async def generation(self, subnet: int) -> int | None:
        """The subnet's generation in the database; None when that has no such subnet."""
        return await self._store.generation(subnet)

    async def hear(self, connection: Connection, subnets: Sequence[int]) -> None:
        """Take what the cluster has of these subnets, however often it takes, unless an admin ends the wait for it.

        It is asked for all others that it may have, too: it registers with what it has of one past, and may have
        something of several when one recovery came soon after another. Raises LinkLost, DatabaseUnavailable.
        """
        for subnet in dict.fromkeys([*subnets, *await self._store.may_have(connection.cluster)]):
            taken = await self._patiently(connection, subnet)
            if taken is not None:
                self._log.info(
                    "cluster {cluster} handed up {count} host maps of {subnet}, and {former} that it is removing",
                    event="recovery.heard",
                    cluster=connection.name,
                    subnet=subnet_name(subnet),
                    count=taken.count,
                    former=taken.former,
                )
        await self._store.heard(connection.cluster)
        await self.settle()

    async def has_another_past(self, connection: Connection, subnet: int) -> bool:
        """Look at what a cluster has whose digest is not the region's; begin a recovery if it is of another past.

        Raises what `Link.call` does.
        """
        if await self._take(connection, subnet) is None:
            return False
        name = subnet_name(subnet)
        contradicting = await self._store.contradictions(connection.cluster, name)
        await self._store.drop(connection.cluster, name)
        if contradicting:
            reason = f"cluster {connection.name} has {contradicting} host maps of {name} that the database never had"
            await self.begin(reason, connection.history)
        return contradicting > 0

    async def settle(self) -> None:
        """Settle what can be settled now, and end the recovery when nothing is left. The sweep then delivers it."""
        for subnet in await self._store.to_settle():
            settled = await self._store.settle(subnet)
            if settled is not None:
                self._log.info(
                    "{cidr} is settled and goes on at generation {generation}: {findings}",
                    event="recovery.settled",
                    cidr=settled.cidr,
                    subnet=subnet_name(subnet),
                    generation=settled.generation,
                    findings=settled.counts,
                )
        history = await self._store.finish()
        if history is not None:
            self._log.warn("the recovery is over", event="recovery.ended", history=history)

    # ---- one subnet of one cluster ----

    async def _patiently(self, connection: Connection, subnet: int) -> "_Taken | None":
        delay = FIRST_RETRY_SECONDS
        failed = False
        while True:
            try:
                if failed and not await self._store.waits_for(connection.cluster):
                    return None
                taken = await self._take(connection, subnet, only_of_another=True)
                if taken is not None:
                    taken.former = await self._take_former(connection, subnet, taken.cidr)
                    await self._store.complete(connection.cluster, subnet_name(subnet))
                return taken
            except (CallTimedOut, amp.RemoteAmpError, errors.ProtocolError, DatabaseUnavailable) as error:
                self._log.warn(
                    "cluster {cluster} did not hand up what it has of {subnet}, again in {delay} s: {reason}",
                    event="recovery.not-heard",
                    cluster=connection.name,
                    subnet=subnet_name(subnet),
                    delay=delay,
                    reason=_reason(error),
                )
            failed = True
            await deferLater(self._clock, delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)
            if not connection.link.connected_now:
                raise LinkLost(f"{connection.name} is not connected any more")

    async def _take(self, connection: Connection, subnet: int, *, only_of_another: bool = False) -> "_Taken | None":
        """Take all pages of host maps. None where the cluster has nothing of the subnet (or nothing of another past,
        where only that is wanted).
        """
        name = subnet_name(subnet)
        after: tuple[Identifier, ...] = ()
        count = 0
        while True:
            try:
                page = await connection.link.call(commands.UploadHostMaps, subnet=name, after=after)
            except errors.UnknownSubnet:
                return None
            if only_of_another and page["history"] == connection.history:
                return None
            if not after:
                said = (page["cidr"], page["history"], page["accepted_generation"], page["applied_generation"])
                await self._store.take(Evidence(connection.cluster, name, *said))
            host_maps = page["host_maps"]
            if host_maps:
                await self._store.add_maps(connection.cluster, name, host_maps)
                count += len(host_maps)
                if count > self._most:
                    raise errors.MalformedArgument(f"it hands up more than {self._most} host maps of {name}")
                after = (host_maps[-1].identifier,)
            if not page["more"] or not host_maps:
                return _Taken(page["cidr"], count)

    async def _take_former(self, connection: Connection, subnet: int, cidr: str) -> int:
        """Take all pages of those whose removal the cluster had accepted and its DHCP server may not have done."""
        after: tuple[HostMap, ...] = ()
        count = 0
        while True:
            try:
                page = await connection.link.call(commands.UploadFormerHostMaps, cidr=cidr, after=after)
            except errors.UnknownCommand:
                self._log.warn(
                    "cluster {cluster} does not say which removals in {cidr} its DHCP server has not done yet: its "
                    "clusterd is too old for that",
                    event="recovery.former-unheard",
                    cluster=connection.name,
                    subnet=subnet_name(subnet),
                    cidr=cidr,
                )
                return 0
            host_maps = page["host_maps"]
            if host_maps:
                await self._store.add_maps(connection.cluster, subnet_name(subnet), host_maps, former=True)
                count += len(host_maps)
                if count > self._most:
                    raise errors.MalformedArgument(f"it hands up more than {self._most} former host maps of {cidr}")
                after = (host_maps[-1],)
            if not page["more"] or not host_maps:
                return count


@dataclass(slots=True)
class _Taken:
    """What a cluster handed up of a subnet: its network, and how many host maps, held and former ones."""

    cidr: str
    count: int
    former: int = 0


def _reason(error: Exception) -> str:
    if isinstance(error, errors.UnknownCommand):
        return "its clusterd is too old for that: upgrade it, or end the recovery without it"
    return f"{type(error).__name__}: {error}"[:500]
