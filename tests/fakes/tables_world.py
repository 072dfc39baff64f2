"""The world of a story in memory: the planner over `Tables`."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from regiond.domain.errors import DomainError
from regiond.domain.mutations import Mutation, Outcome
from regiond.domain.plan import plan
from regiond.storage.batch import facts_request, owner_facts_request, read_facts
from regiond.storage.batch_changes import changes_document, edits_document
from tests.fakes.tables import Tables
from tests.regiond.domain.stories import Rows, Story

SUBNETS = (101, 102)
CLUSTERS = (201, 202)
ACCOUNTS = MappingProxyType({1: "account-1", 2: "account-2"})


class TablesWorld:
    """See `stories.World`."""

    def __init__(
        self,
        story: Story,
        subnets: Sequence[int] = SUBNETS,
        clusters: Sequence[int] = CLUSTERS,
        accounts: Mapping[int, str] = ACCOUNTS,
    ) -> None:
        self.subnets = subnets
        self.clusters = clusters
        self.accounts = list(accounts)
        self.tables = Tables(accounts=dict(accounts), clusters={c: f"rack-{c}" for c in clusters})
        for subnet, ground, served in zip(subnets, story.grounds, story.served, strict=True):
            self.tables.add_subnet(subnet, ground.cidr, story.hold)
            for kind, low, high in ground.ranges:
                self.tables.ranges.append({"subnet": subnet, "kind": kind, "low": low, "high": high})
            for kind, address in ground.infrastructure:
                row = {"subnet": subnet, "cluster": clusters[0], "kind": kind, "address": address}
                self.tables.infrastructure.append(row)
            for cluster in clusters if served else ():
                self.tables.add_delivery(subnet, cluster, "serving")
            self.tables.rebuild_free_ranges(subnet)

    async def batch(self, mutations: Sequence[Mutation]) -> list[Outcome | DomainError]:
        return commit(self.tables, mutations)

    async def sooner(self, seconds: float) -> None:
        self.tables.sooner(seconds)

    async def set_role(self, subnet: int, cluster: int, role: str) -> None:
        if (subnet, cluster) in self.tables.deliveries:
            self.tables.deliveries[subnet, cluster]["role"] = role
        else:
            self.tables.add_delivery(subnet, cluster, role)

    async def rows(self) -> Rows:
        return rows_of(self.tables)


def commit(tables: Tables, mutations: Sequence[Mutation]) -> list[Outcome | DomainError]:
    """One batch, as the writer does it."""
    owners = owner_facts_request(mutations)
    found = tables.batch_facts(facts_request(mutations)) + ([] if owners is None else tables.owner_facts(owners))
    facts = read_facts(found)
    planned = plan(facts, mutations)
    if planned.changes.anything:
        tables.batch_write(changes_document("00000000-0000-0000-0000-000000000000", planned.changes, facts.subnets))
        if (edits := edits_document(planned.changes)) is not None:
            tables.batch_edit(edits)
    return planned.outcomes


def rows_of(tables: Tables) -> Rows:
    return Rows(
        subnets={id_: (row["generation"], row["digest"]) for id_, row in tables.subnets.items()},
        free={subnet: tables.free_ranges(subnet) for subnet in tables.subnets},
        reservations={(row["subnet"], row["address"]): comparable(row) for row in tables.reservations.values()},
        maps={key: dict(row) for key, row in tables.maps.items()},
        deliveries={
            key: (row["role"], row["accepted_generation"], row["applied_generation"], row["error"])
            for key, row in tables.deliveries.items()
        },
        rejected=dict(tables.rejected),
        devices=set(tables.devices),
        answers={key: row["fingerprint"] for key, row in tables.answers.items()},
        audit=[(row["action"], row["object"]) for row in tables.audit],
    )


_RESERVATION_COLUMNS = (
    *("subnet", "address", "id", "kind", "status", "owner", "owner_name", "macs", "client_id", "duid", "alias"),
    *("hostname", "device", "node", "purpose", "comment", "group", "map_generation", "release_generation"),
)


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A reservation's row without its times, which are only there or not."""
    times = {name: row[name] is not None for name in ("expires_at", "confirmed_at", "free_at")}
    return {**{name: row[name] for name in _RESERVATION_COLUMNS}, **times}
