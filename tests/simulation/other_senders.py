"""Changes that no dispatcher of today sends: late ones, and wrong ones."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols.amp import RemoteAmpError
from twisted.python.failure import Failure

from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import ProtocolError
from regiond.domain.ids import Prefix, format_id
from tests.simulation.watch import Change
from tests.simulation.world import World


def send_past_dispatcher(world: World, to: Any, subnet: int, changes: Sequence[Change], *, whole: bool = False) -> None:
    """The first of these changes, if there is one, to whoever takes the region's commands; it may be refused."""
    for change in changes[:1]:
        named = {"subnet": format_id(Prefix.SUBNET, subnet), "to_generation": change.generation}
        said = {**named, "history": world.tables.history}
        said |= {"cidr": world.tables.subnets[subnet]["cidr"], "digest": digest_of(change.digested)}
        Deferred.fromCoroutine(_send(to, named, said, change, whole)).addErrback(_only_refused)


async def _send(to: Any, named: dict[str, Any], said: dict[str, Any], change: Change, whole: bool) -> None:
    wanted, before = change.wanted, change.before
    if whole:
        await to.begin_transfer(**said, from_generation=None, count=len(wanted))
        await to.transfer_page(**named, upserts=sorted(wanted), removals=())
        await to.commit_transfer(**named)
    else:
        gone = {m.identifier for m in before} - {m.identifier for m in wanted}
        rows = {"upserts": sorted(wanted - before), "removals": sorted(gone)}
        await to.apply_host_maps(**said, from_generation=change.generation - 1, **rows, request_ids=())


def _only_refused(failure: Failure) -> None:
    failure.trap(ProtocolError, RemoteAmpError)
