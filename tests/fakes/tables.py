"""The region's tables in memory, with what `batch_facts` and `batch_write` (migration 0002) do to them.

Both take the documents that the real functions take and give the rows that the real ones give, so that everything in
`regiond.storage.batch` is used as it is. `test_stories_on_postgres.py` and `test_quotas_on_postgres.py` in
`tests/regiond/storage` keep this fake true.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from clusterd.protocol.addresses import address_to_int, int_to_address
from regiond.domain.networks import network

NOW = datetime(2030, 1, 1, tzinfo=UTC)

Key = tuple[Any, ...]
Row = dict[str, Any]


class Conflict(Exception):
    """A unique or foreign key constraint of the real tables would refuse this."""


@dataclass(slots=True)
class Tables:
    """Rows by primary key; addresses in keys are integers, in rows canonical text. The clock stands still at `now`."""

    now: datetime = NOW
    accounts: dict[int, str] = field(default_factory=dict)
    subnets: dict[int, Row] = field(default_factory=dict)
    ranges: list[Row] = field(default_factory=list)
    infrastructure: list[Row] = field(default_factory=list)
    free: dict[Key, int] = field(default_factory=dict)  # (subnet, high) → low
    clusters: dict[int, str] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)  # by cluster: how often it connected
    interfaces: dict[int, Row] = field(default_factory=dict)  # see `tests.fakes.topology`
    vrfs: dict[str, int] = field(default_factory=lambda: {"default": 1})
    changes: list[Key] = field(default_factory=list)  # (cluster, InterfaceChange)
    vrf_of: dict[int, str] = field(default_factory=dict)  # by cluster; `default` where it is not
    deliveries: dict[Key, Row] = field(default_factory=dict)  # (subnet, cluster)
    rejected: dict[Key, str] = field(default_factory=dict)  # (subnet, cluster, kind, identifier) → reason
    reservations: dict[Key, Row] = field(default_factory=dict)  # (subnet, address)
    maps: dict[Key, Row] = field(default_factory=dict)  # (subnet, kind, identifier)
    devices: dict[int, Row] = field(default_factory=dict)
    nodes: dict[int, Row] = field(default_factory=lambda: {1: {}})
    limits: dict[int, Key] = field(default_factory=dict)  # account → how many user reservations in all, per subnet
    counts: dict[Key, int] = field(default_factory=dict)  # (account, subnet) → user reservations
    answers: dict[Key, Row] = field(default_factory=dict)  # (account, key)
    # What follows is written by `tests.fakes.recovery`.
    history: str = "history-1"
    recovering: bool = False
    former_histories: set[str] = field(default_factory=set)
    unheard: set[int] = field(default_factory=set)  # clusters
    evidence: dict[Key, Row] = field(default_factory=dict)  # (cluster, the subnet's name there)
    findings: list[Key] = field(default_factory=list)  # kind, subnet, address
    beats: dict[str, int] = field(default_factory=dict)  # by regiond
    audit: list[Row] = field(default_factory=list)

    def copy(self) -> "Tables":
        return deepcopy(self)

    # ---- what tests put in ----

    def add_subnet(self, subnet: int, cidr: str, hold: int, vrf: int = 1) -> None:
        """Without free ranges: see `rebuild_free_ranges`."""
        self.subnets[subnet] = {
            "id": subnet,
            "cidr": cidr,
            "generation": 0,
            "digest": 0,
            "hold": hold,
            "vrf_id": vrf,
            "recovering": False,
            "made_since": False,  # the recovery began
            "fork_at": None,
            "evidence_generation": None,
        }

    def add_delivery(self, subnet: int, cluster: int, role: str) -> None:
        self.deliveries[subnet, cluster] = {
            "subnet": subnet,
            "cluster": cluster,
            "cluster_name": self.clusters[cluster],
            "role": role,
            "connected": False,
            "accepted_generation": 0,
            "applied_generation": 0,
            "error": None,
            "since": self.now.isoformat(),
        }

    def rebuild_free_ranges(self, subnet: int) -> None:
        for key in [key for key in self.free if key[0] == subnet]:
            del self.free[key]
        self.free.update(((subnet, high), low) for low, high in self.expected_free_ranges(subnet))

    def expected_free_ranges(self, subnet: int) -> list[tuple[int, int]]:
        """What is usable, less ranges, infrastructure and reservations."""
        net = network(self.subnets[subnet]["cidr"])
        occupied = [(_int(row["low"]), _int(row["high"])) for row in self.ranges if row["subnet"] == subnet]
        occupied += [(_int(row["address"]),) * 2 for row in self.infrastructure if row["subnet"] == subnet]
        occupied += [(address,) * 2 for of, address in self.reservations if of == subnet]
        free, low = [], net.first_usable
        for first, last in sorted(occupied):
            if low < first:
                free.append((low, min(first - 1, net.last_usable)))
            low = max(low, last + 1)
        if low <= net.last_usable:
            free.append((low, net.last_usable))
        return [(low, high) for low, high in free if low <= high]

    def free_ranges(self, subnet: int) -> list[tuple[int, int]]:
        return sorted((low, high) for (of, high), low in self.free.items() if of == subnet)

    def sooner(self, seconds: float) -> None:
        """As if everything that will happen at a time happened this much earlier."""
        for row in self.reservations.values():
            for name in ("confirmed_at", "free_at"):
                if row[name] is not None:
                    row[name] = (datetime.fromisoformat(row[name]) - timedelta(seconds=seconds)).isoformat()

    # ---- batch_facts ----

    def batch_facts(self, request: str) -> list[tuple[str, Any]]:
        """The tagged rows that the real function answers to this request."""
        wanted = json.loads(request)
        rows = [("now", self.now.isoformat()), *self._facts_of_subnets(wanted["subnets"])]
        rows += self._facts_of_addresses(wanted["addresses"])
        rows += self._facts_of_identifiers(wanted["identifiers"])
        for key in wanted["keys"]:
            if (answered := self.answers.get((key["account"], key["key"]))) is not None:
                rows.append(("answered", answered))
        rows += self._facts_of_quotas(wanted["quotas"])
        plain: list[tuple[str, Any]] = [(tag, json.loads(json.dumps(fact))) for tag, fact in rows]
        return plain

    def owner_facts(self, request: str) -> list[tuple[str, Any]]:
        """What the real function of this name returns, of devices."""
        facts: list[tuple[str, Any]] = []
        for device in json.loads(request)["devices"]:
            if (row := self.devices.get(device)) is not None:
                held = [
                    r["id"] for r in self.reservations.values() if r["device"] == device and r["status"] == "active"
                ]
                facts.append(("device", {**row, "owner_name": self.accounts[row["owner"]], "held": held}))
        return facts

    def batch_edit(self, document: str) -> None:
        """Do what the real function does, of devices and reservations."""
        changes = json.loads(document)
        for row in changes["devices"]:
            self.devices[row["id"]].update(row)
        for row in changes["reservations"]:
            stored = self.reservations[row["subnet"], _int(row["address"])]
            stored.update((name, row.get(name)) for name in _EDITED_COLUMNS)
            stored["owner_name"] = self.accounts[stored["owner"]]

    def _facts_of_subnets(self, subnets: Iterable[Row]) -> Iterator[tuple[str, Any]]:
        for wanted in subnets:
            row = self.subnets.get(wanted["id"])
            if row is not None:
                lowest = self._texts(row["id"], self.free_ranges(row["id"])[: wanted["want"]])
                was_served = any(of == row["id"] for of, _ in self.deliveries)
                yield "subnet", {**row, "vrf": "default", "was_served": was_served, "free": lowest}
            for (of, cluster), delivery in self.deliveries.items():
                if of == wanted["id"]:
                    connection = {"epoch": self.epochs.get(cluster, 0), "unheard": cluster in self.unheard}
                    yield "delivery", {**delivery, **connection}

    def _facts_of_addresses(self, addresses: Iterable[Row]) -> Iterator[tuple[str, Any]]:
        for wanted in addresses:
            subnet, address, before = wanted["subnet"], _int(wanted["address"]), _int(wanted["before"])
            near = [(low, high) for low, high in self.free_ranges(subnet) if high >= before][:2]
            for low, high in self._texts(subnet, near):
                yield "free", [subnet, low, high]
            if (reservation := self.reservations.get((subnet, address))) is not None:
                yield "reservation", reservation
                yield from self._maps_of(reservation["id"])
            for row in self.ranges:
                if row["subnet"] == subnet and _int(row["low"]) <= address <= _int(row["high"]):
                    yield "obstacle", {**row, "address": wanted["address"]}
            for row in self.infrastructure:
                if row["subnet"] == subnet and _int(row["address"]) == address:
                    yield "obstacle", {**row, "low": row["address"], "high": row["address"]}

    def _facts_of_identifiers(self, identifiers: Iterable[Row]) -> Iterator[tuple[str, Any]]:
        for wanted in identifiers:
            found = self.maps.get((wanted["subnet"], wanted["kind"], wanted["identifier"]))
            if found is not None:
                yield "map", found
                holder = self.reservations.get((found["subnet"], _int(found["address"])))
                if holder is not None:
                    yield "reservation", holder
                yield from self._maps_of(found["reservation"])

    def _facts_of_quotas(self, quotas: Iterable[Row]) -> Iterator[tuple[str, Any]]:
        subnets: dict[int, set[int]] = {}
        for wanted in quotas:
            subnets.setdefault(wanted["account"], set()).add(wanted["subnet"])
        for account, on in subnets.items():
            limit, limit_per_subnet = self.limits.get(account, (None, None))
            if limit is not None or limit_per_subnet is not None:
                used = {subnet: count for (of, subnet), count in self.counts.items() if of == account}
                fact = {"account": account, "limit": limit, "limit_per_subnet": limit_per_subnet}
                used_on = {subnet: count for subnet, count in used.items() if subnet in on}
                yield "quota", {**fact, "used": sum(used.values()), "used_on": used_on}

    def _maps_of(self, reservation: int) -> Iterator[tuple[str, Any]]:
        for row in self.maps.values():
            if row["reservation"] == reservation:
                yield "map", row

    def _texts(self, subnet: int, ranges: Iterable[tuple[int, int]]) -> list[list[str]]:
        family = network(self.subnets[subnet]["cidr"]).family
        return [[int_to_address(family, low), int_to_address(family, high)] for low, high in ranges]

    # ---- batch_write ----

    def batch_write(self, document: str) -> None:
        """Do what the real function does. Raises Conflict, half-way through: there is no rollback here."""
        changes: dict[str, Any] = {**dict.fromkeys(_LISTS, ()), **json.loads(document)}
        for row in changes["reservations_gone"]:
            self.reservations.pop((row["subnet"], _int(row["address"])), None)
        for row in changes["devices_new"]:
            _insert(self.devices, (row["id"]), row)
        for device in changes["devices_gone"]:
            self.devices.pop(device, None)
        for node in changes["nodes_gone"]:
            self.nodes.pop(node, None)
        for node in changes["nodes_claimed"]:
            if node not in self.nodes:
                raise Conflict(f"no node {node}")
        self._write_reservations(changes)
        for row in changes["counts"]:
            key = (row["account"], row["subnet"])
            self.counts[key] = self.counts.get(key, 0) + row["difference"]
        for held in self.reservations.values():
            if held["node"] in changes["nodes_gone"] and held["status"] == "active":
                raise Conflict(f"node {held['node']} still has {held['address']}")
        self._write_maps(changes["maps"])
        for row in changes["subnets"]:
            self.subnets[row["id"]].update(generation=row["generation"], digest=row["digest"])
        for row in changes["free_gone"]:
            self.free.pop((row["subnet"], _int(row["high"])), None)
        for row in changes["free_put"]:
            self.free[row["subnet"], _int(row["high"])] = _int(row["low"])
        self._write_deliveries(changes)
        self.audit.extend(changes["audit"])
        for row in changes["answers"]:
            _insert(self.answers, (row["account"], row["key"]), row)

    def _write_reservations(self, changes: Mapping[str, Any]) -> None:
        for row in changes["reservations_new"]:
            if row["id"] in {other["id"] for other in self.reservations.values()}:
                raise Conflict(f"reservation {row['id']} is there already")
            if row["owner"] not in self.accounts:
                raise Conflict(f"no account {row['owner']}")
            joined = {"cidr": self.subnets[row["subnet"]]["cidr"], "vrf": "default"}
            joined["owner_name"] = self.accounts[row["owner"]]
            stored = {**NO_VALUES, **row, **joined, "created": self.now.isoformat()}
            _insert(self.reservations, (row["subnet"], _int(row["address"])), stored)
        for row in changes["reservations_changed"]:
            stored = self.reservations[row["subnet"], _int(row["address"])]
            stored.update((name, row.get(name)) for name in _RELEASE_COLUMNS)

    def _write_maps(self, rows: Iterable[Row]) -> None:
        for row in rows:
            key = (row["subnet"], row["kind"], row["identifier"])
            self.maps[key] = row
            # What a server would not take was another map.
            for rejected in [r for r in self.rejected if (r[0], *r[2:]) == key]:
                del self.rejected[rejected]

    def _write_deliveries(self, changes: Mapping[str, Any]) -> None:
        for row in changes["deliveries"]:
            self.deliveries[row["subnet"], row["cluster"]].update(row, since=self.now.isoformat())
        for row in changes["rejected"]:
            for key in [key for key in self.rejected if key[:2] == (row["subnet"], row["cluster"])]:
                del self.rejected[key]
            for one in row["maps"]:
                key = (row["subnet"], row["cluster"], one["kind"], one["identifier"])
                self.rejected.setdefault(key, one["reason"])
        for row in changes["confirmed"]:
            until = self.now + timedelta(seconds=self.subnets[row["subnet"]]["hold"])
            for (subnet, _), held in self.reservations.items():
                waiting = held["status"] == "releasing" and held["confirmed_at"] is None
                removed_at = held["release_generation"]
                if subnet == row["subnet"] and waiting and removed_at is not None and removed_at <= row["generation"]:
                    held.update(confirmed_at=self.now.isoformat(), free_at=until.isoformat())


# A column that a row of the document leaves out is NULL (jsonb_to_recordset).
NO_VALUES = dict.fromkeys(
    (
        "client_id",
        "duid",
        "alias",
        "hostname",
        "device",
        "node",
        "purpose",
        "comment",
        "group",
        "expires_at",
        "map_generation",
        "release_generation",
        "confirmed_at",
        "free_at",
    )
)
_LISTS = (
    "reservations_gone",
    "reservations_new",
    "reservations_changed",
    "counts",
    "maps",
    "subnets",
    "free_gone",
    "free_put",
    "deliveries",
    "rejected",
    "confirmed",
    "devices_new",
    "devices_gone",
    "nodes_gone",
    "nodes_claimed",
    "audit",
    "answers",
)
_EDITED_COLUMNS = ("owner", "macs", "hostname", "comment", "expires_at", "map_generation")
_RELEASE_COLUMNS = ("status", "release_generation", "confirmed_at", "free_at")


def _insert(table: dict[Any, Any], key: Any, row: Any) -> None:
    if key in table:
        raise Conflict(f"{key} is there already")
    table[key] = row


def _int(text: str) -> int:
    return address_to_int(text)[1]
