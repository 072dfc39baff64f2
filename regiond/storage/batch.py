"""What a batch is planned on: what `batch_facts` (migration 0014) is asked, and its answer as the planner's values."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from clusterd.protocol.addresses import address_to_int, int_to_address
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain.facts import (
    Answered,
    DeviceFacts,
    Facts,
    MapFacts,
    NodeFacts,
    Obstacle,
    QuotaFacts,
    SubnetFacts,
)
from regiond.domain.ids import Prefix
from regiond.domain.mutations import (
    Acknowledge,
    Claim,
    Confirm,
    EditDevice,
    EditNode,
    EditReservation,
    Forgotten,
    Mutation,
    Place,
    Probing,
    Reclaim,
    Release,
    Require,
    Step,
)
from regiond.domain.networks import network
from regiond.domain.reservations import Delivery, Kind, Reservation, Status

PROBED_RANGES = 64  # free ranges to choose from when addresses are probed; as many as in migration 0019
_TWO_64 = 1 << 64
_ON_PLACES = EditReservation | EditDevice | EditNode | Require
_DELIVERY_FIELDS = [field.name for field in fields(Delivery)]


def from_signed(digest: int) -> int:
    """PostgreSQL's bigint as an unsigned 64-bit digest; `batch_changes.to_signed` is the inverse."""
    return digest + _TWO_64 if digest < 0 else digest


def subnets_of(mutations: Iterable[Mutation]) -> list[int]:
    """The subnets a batch touches, ascending: the order in which everybody locks them."""
    return sorted(
        {
            step.subnet
            for mutation in mutations
            for step in mutation.steps
            if isinstance(step, Claim | Release | Reclaim | Acknowledge | Forgotten | Confirm)
        }
        | {place.subnet for mutation in mutations for step in mutation.steps for place in _places(step)}
    )


def _places(step: Step) -> Sequence[Place]:
    return step.places if isinstance(step, _ON_PLACES) else ()


def owner_facts_request(mutations: Iterable[Mutation]) -> str | None:
    """The argument of `owner_facts`: the devices and nodes that are to be changed or looked at. None without any."""
    devices: set[int] = set()
    nodes: set[int] = set()
    for mutation in mutations:
        for step in mutation.steps:
            if isinstance(step, EditDevice):
                devices.add(step.device)
            elif isinstance(step, EditNode):
                nodes.add(step.node)
            elif isinstance(step, Require) and step.prefix is Prefix.DEVICE:
                devices.add(step.id)
            elif isinstance(step, Require) and step.prefix is Prefix.NODE:
                nodes.add(step.id)
    if not devices and not nodes:
        return None
    return to_json({"devices": sorted(devices), "nodes": sorted(nodes)}).decode()


def facts_request(mutations: Sequence[Mutation]) -> str:
    """The argument of `batch_facts`: the rows that these mutations can touch."""
    wants: Counter[int] = Counter(dict.fromkeys(subnets_of(mutations), 0))
    addresses: dict[tuple[int, str], dict[str, Any]] = {}
    identifiers: dict[tuple[int, Identifier], dict[str, Any]] = {}
    keys: dict[tuple[int, str], dict[str, Any]] = {}
    quotas: set[tuple[int, int]] = set()
    probed: set[int] = set()
    for mutation in mutations:
        if (idempotency := mutation.idempotency) is not None:
            keys[idempotency.account, idempotency.key] = {"account": idempotency.account, "key": idempotency.key}
        for step in mutation.steps:
            if isinstance(step, Claim):
                # A named address may use up the range that a later claim would have taken its own from.
                wants[step.subnet] += step.count
                if step.probing is Probing.YES:
                    probed.add(step.subnet)
                for address in step.vetted:
                    addresses[step.subnet, address] = _address(step.subnet, address)
                if step.kind is Kind.USER:
                    quotas.add((step.owner, step.subnet))
                for i in step.identifiers:
                    identifiers[step.subnet, i] = _identifier(step.subnet, i)
            if isinstance(step, Claim | Release | Reclaim) and step.address is not None:
                addresses[step.subnet, step.address] = _address(step.subnet, step.address)
            elif isinstance(step, _ON_PLACES):
                for place in step.places:
                    addresses[place.subnet, place.address] = _address(place.subnet, place.address)
                    for i in _new_identifiers(step):
                        identifiers[place.subnet, i] = _identifier(place.subnet, i)
    for subnet in probed:
        wants[subnet] += PROBED_RANGES
    request = to_json(
        {
            "subnets": [{"id": subnet, "want": want} for subnet, want in wants.items()],
            "addresses": list(addresses.values()),
            "identifiers": list(identifiers.values()),
            "keys": list(keys.values()),
            "quotas": [{"account": account, "subnet": subnet} for account, subnet in sorted(quotas)],
        }
    )
    return request.decode()


def _address(subnet: int, address: str) -> dict[str, Any]:
    family, number = address_to_int(address)
    return {"subnet": subnet, "before": int_to_address(family, max(number - 1, 0)), "address": address}


def _identifier(subnet: int, identifier: Identifier) -> dict[str, Any]:
    return {"subnet": subnet, "kind": identifier.kind.value, "identifier": identifier.value.hex()}


def _new_identifiers(step: Step) -> Iterable[Identifier]:
    """The MAC addresses that an edit may give host maps to."""
    if isinstance(step, EditDevice):
        return step.values.get("macs", ())
    if isinstance(step, EditNode):
        return [Identifier.mac(mac) for mac in step.values.get("replaced", {}).values()]
    return ()


def read_facts(rows: Sequence[tuple[Any, ...]]) -> Facts:
    """From the tagged rows of `batch_facts`; each row is `(tag, fact)`, the database's clock is the first."""
    facts = Facts(_time(rows[0][1]))
    subnets: dict[int, dict[str, Any]] = {}
    free: dict[int, set[tuple[int, int]]] = {}
    for tag, fact in rows[1:]:
        if tag == "subnet":
            subnets[fact["id"]] = fact
            free.setdefault(fact["id"], set()).update(_range(low, high) for low, high in fact["free"])
        elif tag == "free":
            free.setdefault(fact[0], set()).add(_range(fact[1], fact[2]))
        elif tag == "reservation":
            reservation = read_reservation(fact)
            facts.reservations[reservation.subnet, address_to_int(reservation.address)[1]] = reservation
        elif tag == "map":
            identifier = Identifier(IdentifierKind(fact["kind"]), bytes.fromhex(fact["identifier"]))
            facts.maps[fact["subnet"], identifier] = MapFacts(
                fact["reservation"], fact["address"], fact["hostname"], fact["removed"], fact["request_id"]
            )
        elif tag == "obstacle":
            low, high = _range(fact["low"], fact["high"])
            key = (fact["subnet"], address_to_int(fact["address"])[1])
            facts.obstacles.setdefault(key, Obstacle(fact["kind"], low, high, fact.get("cluster"), fact.get("mac")))
        elif tag == "delivery":
            facts.deliveries.setdefault(fact.pop("subnet"), []).append(read_delivery(fact))
        elif tag == "answered":
            facts.answered[fact["account"], fact["key"]] = Answered(fact["fingerprint"], fact["answer"])
        elif tag == "quota":
            used_on = {int(subnet): used for subnet, used in fact["used_on"].items()}
            facts.quotas[fact["account"]] = QuotaFacts(fact["limit"], fact["limit_per_subnet"], fact["used"], used_on)
        elif tag == "device":
            facts.devices[fact["id"]] = DeviceFacts(
                **{**_known(DeviceFacts, fact), "held": frozenset(fact["held"])},
            )
        elif tag == "node":
            facts.nodes[fact["id"]] = NodeFacts(
                **{**_known(NodeFacts, fact), "macs": tuple(fact["macs"]), "held": frozenset(fact["held"])},
            )
    for subnet, fact in subnets.items():
        facts.subnets[subnet] = SubnetFacts(
            id=subnet,
            network=network(fact["cidr"]),
            vrf=fact["vrf"],
            generation=fact["generation"],
            digest=from_signed(fact["digest"]),
            hold_seconds=fact["hold"],
            was_served=fact["was_served"],
            free=tuple(free[subnet]),
            awaits=tuple(fact.get("awaits", ())),
            recovering=fact.get("recovering", False),
            probes=fact.get("probes", False),
            claimants=None if fact.get("claimants") is None else frozenset(fact["claimants"]),
        )
    return facts


def read_reservation(fact: dict[str, Any]) -> Reservation:
    """From the JSON of `reservation_json()`."""
    return Reservation(
        id=fact["id"],
        kind=Kind(fact["kind"]),
        status=Status(fact["status"]),
        address=fact["address"],
        subnet=fact["subnet"],
        cidr=fact["cidr"],
        vrf=fact["vrf"],
        owner=fact["owner"],
        owner_name=fact["owner_name"],
        macs=tuple(fact["macs"]),
        client_id=fact["client_id"],
        duid=fact["duid"],
        alias=fact["alias"],
        hostname=fact["hostname"],
        device=fact["device"],
        node=fact["node"],
        purpose=fact["purpose"],
        comment=fact["comment"],
        group=fact["group"],
        created=_time(fact["created"]),
        expires_at=_optional_time(fact["expires_at"]),
        map_generation=fact["map_generation"],
        release_generation=fact["release_generation"],
        confirmed_at=_optional_time(fact["confirmed_at"]),
        free_at=_optional_time(fact["free_at"]),
        probed=fact.get("probed"),
    )


def read_delivery(fact: dict[str, Any]) -> Delivery:
    """From JSON with the fields of `Delivery`, and perhaps others: see Note [Rolling upgrade]."""
    known = {name: fact[name] for name in _DELIVERY_FIELDS if name in fact}
    return Delivery(**{**known, "since": _time(fact["since"])})


def _known(kind: type[DeviceFacts] | type[NodeFacts], fact: dict[str, Any]) -> dict[str, Any]:
    return {field.name: fact[field.name] for field in fields(kind)}


def _range(low: str, high: str) -> tuple[int, int]:
    return address_to_int(low)[1], address_to_int(high)[1]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _optional_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
