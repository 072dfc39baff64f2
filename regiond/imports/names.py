"""What the lines of an import name: subnets, accounts and nodes, each looked up once."""

from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.importing import (
    LineRefused,
    Named,
)
from regiond.domain.lines import Line
from regiond.domain.reservations import Kind
from regiond.domain.views import NodeView, SubnetView
from regiond.storage.imports import Job
from regiond.storage.reads import Reads


class Names:
    """See the module."""

    def __init__(self, job: Job, reads: Reads, catalogue: Catalogue) -> None:
        self._actor = job.actor
        self._reads = reads
        self._catalogue = catalogue
        self._subnets: dict[str, SubnetView | errors.DomainError] = {}
        self._owners: dict[str, int | None] = {}
        self._nodes: dict[str, NodeView | None] = {}

    async def of(self, line: Line, kind: Kind) -> Named:
        """Raises LineRefused."""
        if not self._actor.is_admin and kind not in (Kind.USER, Kind.NODE):
            raise LineRefused("kind", f"only an admin makes reservations of kind {kind}", "not-permitted")
        subnet = await self._subnet(line)
        if kind is Kind.NODE:
            node = await self._node(line)
            if line.owner not in (None, node.owner_name):
                raise LineRefused("owner", f"node {line.node} is {node.owner_name}'s, and its addresses with it")
            return Named(subnet.id, node.owner, node.owner_name, node.id)
        return Named(subnet.id, *await self._owner(line))

    async def _subnet(self, line: Line) -> SubnetView:
        """The subnet that is named, else the one that has the address."""
        text = line.subnet or f"ip:{line.address}"
        if line.vrf is not None:
            text = f"{text},vrf:{line.vrf}"
        found = self._subnets.get(text)
        if found is None:
            try:
                found = await self._catalogue.resolve(text)
            except errors.AmbiguousSelector as error:
                networks = sorted({f"{each.cidr} in {each.vrf}" for each in error.members["candidates"]})
                found = errors.AmbiguousSelector(
                    f"{line.subnet or line.address} may mean several subnets ({', '.join(networks)}): say which in the "
                    "columns subnet or vrf, or with --vrf for a DHCP server's file",
                    error.members["candidates"],
                )
            except (errors.BadSelector, errors.NoSuchClusterInterface) as error:
                found = error
            self._subnets[text] = found
        if isinstance(found, errors.DomainError):
            raise LineRefused("subnet" if line.subnet else "address", found.detail, found.slug)
        return found

    async def _owner(self, line: Line) -> tuple[int, str]:
        name = line.owner
        account = self._actor.account
        assert account is not None
        if name is None or name == self._actor.name:
            return account, self._actor.name
        if not self._actor.is_admin:
            raise LineRefused("owner", "only an admin reserves for others", "not-permitted")
        if name not in self._owners:
            self._owners[name] = await self._reads.account_id(name)
        found = self._owners[name]
        if found is None:
            raise LineRefused(
                "owner", f"no account {name}: make it first (regionctl accounts create {name})", "not-found"
            )
        return found, name

    async def _node(self, line: Line) -> NodeView:
        text = line.node
        if text is None:
            raise LineRefused("node", "say of which node this is an address: its id or its host name")
        if text not in self._nodes:
            self._nodes[text] = await self._reads.node_named(text)
        node = self._nodes[text]
        if node is None or not (self._actor.is_admin or node.owner == self._actor.account):
            raise LineRefused("node", f"no node {text[:64]}: make it first (POST /nodes)", "not-found")
        return node
