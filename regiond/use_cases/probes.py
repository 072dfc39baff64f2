"""Asking a cluster that serves a subnet whether anybody on the wire uses some addresses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.values import AddressInUse
from regiond.cluster_rpc.asking import Asks, NotAsked
from regiond.storage.probing import ProbedFrom

PROBE_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 2.0  # for the way there and back


class CannotProbe(Exception):
    """Nobody can be asked now. `reasons` are for people."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True, slots=True)
class Probed:
    """What one cluster found out."""

    cluster: int
    in_use: Sequence[AddressInUse]


class Places(Protocol):
    """`storage.probing.ProbingReads`."""

    async def places(self, subnet: int) -> list[ProbedFrom]: ...


class Probes:
    """Asks the clusters that serve a subnet, one after the other until one can tell: all of them are on the wire.

    Raises CannotProbe, within a bounded time.
    """

    def __init__(self, clusters: Asks, reads: Places) -> None:
        self._clusters = clusters
        self._reads = reads

    async def ask(self, subnet: int, addresses: Sequence[str]) -> Probed:
        reasons: list[str] = []
        for place in await self._reads.places(subnet):
            try:
                answer = await self._clusters.ask(
                    place.cluster,
                    commands.ProbeAddresses,
                    deadline=PROBE_SECONDS + GRACE_SECONDS,
                    nic=place.nic,
                    cidr=place.cidr,
                    addresses=addresses,
                    milliseconds=int(PROBE_SECONDS * 1000),
                )
            except errors.UnknownCommand:
                reasons.append(f"the clusterd of {place.name} is too old")
            except (errors.ProtocolError, amp.RemoteAmpError) as error:
                reasons.append(f"cluster {place.name}: {str(error)[:200]}")
            except NotAsked as error:
                reasons.append(f"cluster {place.name} cannot be asked: {error}")
            except (CallTimedOut, LinkLost):
                reasons.append(f"cluster {place.name} does not answer")
            else:
                # Only what was asked for: no cluster marks addresses of others.
                return Probed(place.cluster, [found for found in answer["in_use"] if found.address in addresses])
        raise CannotProbe(reasons or ["no cluster that serves it has a NIC on it now"])
