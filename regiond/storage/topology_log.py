"""One line in the log for each change of a cluster's topology."""

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from regiond.domain.ids import Prefix, format_id
from regiond.domain.topology_changes import Happened, InterfaceChange
from regiond.storage.topology_rows import Applied, Reconsidered

_log = Logger(namespace="region.topology")


def tell(applied: Applied) -> None:
    """After it was committed."""
    name = applied.cluster
    for subnet, new in applied.plan.new_subnets.items():
        _log.info(
            "new subnet {cidr} from cluster {cluster}",
            event="subnet.created",
            cidr=new.network.cidr,
            subnet=format_id(Prefix.SUBNET, subnet),
            cluster=name,
        )
    for subnet, vrf in applied.plan.moved_subnets.items():
        _log.warn(
            "subnet {subnet} is in VRF {vrf} now, with its reservations, as cluster {cluster} is",
            event="subnet.moved",
            subnet=format_id(Prefix.SUBNET, subnet),
            vrf=applied.vrfs[vrf],
            cluster=name,
        )
    for left in applied.plan.left_behind:
        _log.warn(
            "cluster {cluster} has {cidr} in VRF {vrf} from now on ({nic}), and subnet {subnet} stays with the others "
            "that are on it: they share no host maps any more",
            event="subnet.left-behind",
            cluster=name,
            cidr=left.cidr,
            vrf=left.vrf,
            nic=left.nic,
            subnet=format_id(Prefix.SUBNET, left.subnet),
        )
    for change in applied.changes:
        _tell_of(name, change)


def tell_all(reconsidered: Reconsidered) -> None:
    """The same of several clusters."""
    for _, applied in reconsidered.clusters:
        tell(applied)


def _tell_of(cluster: str, change: InterfaceChange) -> None:
    interface = format_id(Prefix.CLUSTER_INTERFACE, change.interface)
    if change.happened is Happened.VANISHED:
        _log.info(
            "cluster interface {nic} on {cidr} vanished",
            event="interface.vanished",
            cluster=cluster,
            interface=interface,
            nic=change.nic,
            cidr=change.cidr,
            vrf=change.vrf,
        )
        return
    _log.info(
        "cluster interface {nic} on {cidr} {change}: {serving}",
        event=f"interface.{change.happened}",
        change=change.happened.value,
        cluster=cluster,
        interface=interface,
        nic=change.nic,
        cidr=change.cidr,
        vrf=change.vrf,
        serving=change.serving,
        before=_words(change.before),
        after=_words(change.after),
    )


def _words(properties: Mapping[str, Any]) -> str:
    shown = dict(properties)
    if "interface" in shown:
        shown["interface"] = format_id(Prefix.CLUSTER_INTERFACE, shown["interface"])
    return ", ".join(f"{name}: {_word(value)}" for name, value in shown.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
