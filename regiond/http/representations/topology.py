"""A cluster's topology and its history as people and programs see them."""

from collections.abc import Mapping
from typing import Any

from regiond.domain.ids import Prefix, format_id
from regiond.domain.topology_changes import RecordedChange
from regiond.http.representations.networks import interface
from regiond.http.representations.values import moment
from regiond.http.shapes import topology as shapes
from regiond.use_cases.requests import Caller
from regiond.use_cases.topologies import Topology


def topology(found: Topology, caller: Caller) -> shapes.Topology:
    present = [each for each in found.interfaces if each.present]
    return {
        "cluster": {"id": format_id(Prefix.CLUSTER, found.cluster.id), "name": found.cluster.name},
        "vrf": found.cluster.vrf,
        "connected": found.cluster.connected,
        "reported_at": moment(found.cluster.topology_at),
        "present": len(present),
        "absent": len(found.interfaces) - len(present),
        "conflicts": sum(each.serving == "conflict" for each in present),
        "waiting": sum(each.serving in ("shared-subnet", "unserved") for each in present),
        "interfaces": [interface(each, caller) for each in found.interfaces],
    }


def interface_change(recorded: RecordedChange, caller: Caller) -> shapes.InterfaceChange:
    """A controller's own MAC address is an admin's to see."""
    change = recorded.change
    return {
        "id": format_id(Prefix.INTERFACE_CHANGE, recorded.id),
        "at": moment(recorded.at),
        "change": change.happened,
        "interface": format_id(Prefix.CLUSTER_INTERFACE, change.interface),
        "nic": change.nic,
        "cidr": change.cidr,
        "vrf": change.vrf,
        "serving": change.serving,
        "before": _properties(change.before, caller),
        "after": _properties(change.after, caller),
    }


def _properties(properties: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    shown = {name: value for name, value in properties.items() if caller.is_admin or name != "mac"}
    if "interface" in shown:
        shown["interface"] = format_id(Prefix.CLUSTER_INTERFACE, shown["interface"])
    return shown
