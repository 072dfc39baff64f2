"""The leases that clusters' DHCP servers have now: asked for when somebody wants to know, stored nowhere.

# Note [Leases and claims]
A claim that names its address, alone or in a batch, asks the clusters that serve the subnet whether another client
has a lease on it, before its transaction and for at most ASK_SECONDS: no lock waits for a cluster. The planner
refuses it for that last, when nothing else stands in the way, so that a repeated claim gets its first answer.
`force` takes the address, and once that is committed the lease is ended where the DHCP server can. A cluster that
is away or of an older version says nothing, and then the claim is not refused: its host map waits for that cluster
anyway.

An import asks nobody: its lines are what a site has in use already. A claim for the next free address asks nobody:
pools and static entries are kept out of the free ones, and a lease outside of those is a pool's that was taken out
of the configuration, or not reported; a question for each claim would cost every claim for that. Nothing is
promised of the moments between the question and the commit: a client that gets a lease just then shows in the list
of leases.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.amp import RemoteAmpError

from clusterd.protocol import commands
from clusterd.protocol.addresses import pack_address, unpack_address
from clusterd.protocol.arguments import MAX_PAGE_ROWS
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.errors import ProtocolError
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier
from regiond.cluster_rpc.asking import Asks
from regiond.domain.leases import FoundLease, LeaseListing, LeasePart, LeaseSource, LeaseView, merge, of_others
from regiond.domain.mutations import Claim
from regiond.domain.networks import network
from regiond.domain.views import ReservationView, SubnetView
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases import inputs
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.together import together

ASK_SECONDS = 3.0
LIST_SECONDS = 10.0

_EXPECTED = (ProtocolError, CallTimedOut, LinkLost, RemoteAmpError)


class KnowsSubnets(Protocol):
    """Inventory, as far as it is needed here."""

    async def subnet(self, subnet: str) -> SubnetView: ...

    async def known(self, number: int) -> SubnetView | None: ...


class KnowsReservations(Protocol):
    """Reads, as far as it is needed here."""

    async def reservations(
        self, wanted: ReservationFilter, limit: int = 1000, after: int | None = None
    ) -> Sequence[ReservationView]: ...


@dataclass(frozen=True, slots=True)
class _Question:
    """What clusters are asked; see `LeaseQuestion`. `seconds` is how long they may take together."""

    subnet: SubnetView
    addresses: Sequence[str]
    clients: Sequence[Identifier]
    after: str | None
    limit: int
    seconds: float


class Leases:
    """See the module."""

    _log = Logger(namespace="region.leases")

    def __init__(self, clock: IReactorTime, clusters: Asks, inventory: KnowsSubnets, reads: KnowsReservations) -> None:
        self._clock = clock
        self._clusters = clusters
        self._inventory = inventory
        self._reads = reads

    async def on_subnet(
        self,
        context: RequestContext,
        subnet: str,
        *,
        addresses: Sequence[str],
        macs: Sequence[str],
        limit: int,
        after: str | None,
    ) -> LeaseListing:
        """One page; `subnet` is an id or a selector, `after` the last address of the page before.

        A cluster that cannot be asked is told of in `sources`. Raises NotPermitted, NotFound and what selectors raise.
        """
        require_admin(context)
        wanted = [inputs.address_in("?address", address) for address in addresses]
        clients = [inputs.mac("?mac", mac) for mac in macs]
        start = None if after is None else inputs.address_in("?after", after)
        view = await self._inventory.subnet(subnet)
        sources, parts = [], []
        for source, part in await self._ask_all(_Question(view, wanted, clients, start, limit, LIST_SECONDS)):
            sources.append(source)
            parts.append(part)
        shown, following = merge(parts, limit)
        holders = await self._holders(view, {found.lease.address for found in shown})
        leases = tuple(LeaseView(found, holders.get(found.lease.address)) for found in shown)
        return LeaseListing(view.id, leases, tuple(sources), following)

    async def look(self, claims: Sequence[Claim], *, over: bool = False) -> list[Claim]:
        """The claims, with what others have leased of the addresses that they name, as clusters tell in time.

        One question for each cluster and subnet. `over`: they are claimed all the same.
        """
        wanted: dict[int, set[str]] = {}
        for claim in claims:
            if claim.address is not None:
                wanted.setdefault(claim.subnet, set()).add(claim.address)
        if not wanted:
            return list(claims)
        views = [await self._inventory.known(subnet) for subnet in wanted]
        told = dict(await together(self._on(view, sorted(wanted[view.id])) for view in views if view is not None))
        return [_informed(claim, told.get(claim.subnet, ()), over) for claim in claims]

    async def _on(self, subnet: SubnetView, addresses: Sequence[str]) -> tuple[int, Sequence[FoundLease]]:
        told = await self._ask_all(_Question(subnet, addresses, [], None, len(addresses), ASK_SECONDS))
        return subnet.id, [found for _, part in told for found in part.leases]

    async def end(self, leases: Collection[FoundLease], request_id: str) -> None:
        """Take these from their clients; one that stays is logged, for its address is somebody else's already."""
        await together(self._end(found, request_id) for found in leases)

    # ---- one cluster ----

    async def _end(self, found: FoundLease, request_id: str) -> None:
        cluster = found.cluster_name
        clients = [str(identifier) for identifier in found.lease.identifiers]
        try:
            await self._clusters.ask(found.cluster, commands.EndLease, deadline=ASK_SECONDS, leases=[found.lease])
        except _EXPECTED as error:
            self._log.warn(
                "the lease on {address} stays with its client until it expires, by {cluster}: {reason}",
                event="lease.not-ended",
                address=found.lease.address,
                clients=clients,
                cluster=cluster,
                reason=str(error),
                request_id=request_id,
            )
        else:
            self._log.info(
                "the lease on {address} was ended by {cluster}",
                event="lease.ended",
                address=found.lease.address,
                clients=clients,
                cluster=cluster,
                request_id=request_id,
            )

    async def _ask_all(self, question: "_Question") -> list[tuple[LeaseSource, LeasePart]]:
        """All clusters that serve the subnet at once, in order of name."""

        async def one(cluster: int, name: str) -> tuple[LeaseSource, LeasePart]:
            try:
                part = await self._ask(cluster, name, question)
            except _EXPECTED as error:
                return LeaseSource(cluster, name, str(error)), LeasePart((), False)
            return LeaseSource(cluster, name), part

        served_by = zip(question.subnet.cluster_ids, question.subnet.clusters, strict=True)
        return await together(one(cluster, name) for cluster, name in served_by)

    async def _ask(self, cluster: int, name: str, question: "_Question") -> LeasePart:
        """The lowest leases of one cluster, from as many pages as it takes. Raises as `Asks.ask`.

        Whatever the cluster says, they are on the subnet, in order, and above where the question begins.
        """
        until = self._clock.seconds() + question.seconds
        found: dict[bytes, ServerLease] = {}
        low = pack_address(question.after) if question.after is not None else b""
        inside = network(question.subnet.cidr)
        more = True
        while more and len(found) < question.limit:
            answer = await self._clusters.ask(
                cluster,
                commands.ListLeases,
                deadline=max(until - self._clock.seconds(), 0.0),
                cidr=question.subnet.cidr,
                after=unpack_address(low) if low else None,
                limit=min(question.limit - len(found), MAX_PAGE_ROWS),
                addresses=question.addresses,
                clients=question.clients,
            )
            news = {pack_address(lease.address): lease for lease in answer["leases"]}
            news = {key: lease for key, lease in news.items() if key > low and int.from_bytes(key) in inside}
            found |= news
            low = max(news, default=low)
            more = bool(answer["more"] and news)
        leases = (FoundLease(cluster, name, found[key]) for key in sorted(found))
        return LeasePart(tuple(leases), more)

    async def _holders(self, subnet: SubnetView, addresses: Collection[str]) -> dict[str, int]:
        if not addresses:
            return {}
        wanted = ReservationFilter(subnets=[subnet.id], addresses=sorted(addresses))
        views = await self._reads.reservations(wanted, len(addresses))
        return {view.reservation.address: view.reservation.id for view in views}


def _informed(claim: Claim, found: Sequence[FoundLease], over: bool) -> Claim:
    on_it = [one for one in found if one.lease.address == claim.address]
    if not on_it:
        return claim
    own = claim.identifiers if claim.mac is None else (*claim.identifiers, Identifier.mac(claim.mac))
    return replace(claim, leases=of_others(on_it, own), over_leases=over)
