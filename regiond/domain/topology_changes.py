"""What became of a cluster's interfaces, one value for each change: what is logged, kept and shown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from clusterd.protocol.values import InterfaceReport
from regiond.domain.topology import KnownInterface, PlannedInterface, TopologyPlan


class Happened(StrEnum):
    """What happened to a cluster interface; the words are the `change` of plan_topology."""

    APPEARED = "appeared"
    RETURNED = "returned"
    RENAMED = "renamed"
    MOVED = "moved"
    CHANGED = "changed"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class InterfaceChange:
    """One change. `before` and `after` have the properties that differ; of what moved, `before` names the former
    interface and its network."""

    happened: Happened
    interface: int
    nic: str
    cidr: str
    vrf: str
    serving: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedChange:
    """One change as it is read back; `id` grows with time."""

    id: int
    at: datetime
    change: InterfaceChange


def changes_of(plan: TopologyPlan, vrf_before: Mapping[int, str]) -> Sequence[InterfaceChange]:
    """The changes in the order of the report, then what vanished. `vrf_before` has the names of subnets' VRFs."""
    return [
        *(_changed(row, vrf_before) for row in plan.interfaces if row.change is not None),
        *(_vanished(row, vrf_before) for row in plan.gone),
    ]


def _changed(row: PlannedInterface, vrf_before: Mapping[int, str]) -> InterfaceChange:
    after = {**_properties(row.report), "serving": row.serving, "conflict": row.conflict, "vrf": row.vrf}
    former, before = row.former, {}
    happened = Happened(row.change or "")
    if former is None:
        after = {name: after[name] for name in ("up", "serving", "conflict") if after[name] is not None}
    else:
        before = {**_properties(former.report), "serving": former.serving, "conflict": former.conflict}
        before["vrf"] = _vrf_of(former, vrf_before, row.vrf)
        if happened is Happened.MOVED:
            before |= {"interface": former.id, "cidr": former.report.cidr}
            after |= {"interface": row.id, "cidr": row.report.cidr}
        before, after = _difference(before, after)
    return InterfaceChange(happened, row.id, row.report.nic, row.report.cidr, row.vrf, row.serving, before, after)


def _vanished(row: KnownInterface, vrf_before: Mapping[int, str]) -> InterfaceChange:
    vrf = _vrf_of(row, vrf_before, row.report.vrf or "")
    return InterfaceChange(Happened.VANISHED, row.id, row.report.nic, row.report.cidr, vrf, row.serving, {}, {})


def _vrf_of(row: KnownInterface, vrf_before: Mapping[int, str], otherwise: str) -> str:
    return otherwise if row.subnet is None else vrf_before.get(row.subnet, otherwise)


def _properties(report: InterfaceReport) -> dict[str, Any]:
    return {
        "nic": report.nic,
        "addresses": list(report.addresses),
        "gateways": list(report.gateways),
        "mac": report.mac,
        "kind": report.kind.value,
        "vlan": report.vlan,
        "up": report.up,
        "relayed": report.relayed,
    }


def _difference(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}
