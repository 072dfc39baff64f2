"""Clusters and their interfaces as people and programs see them."""

from regiond.domain import versions
from regiond.domain.identity import EnrolmentOffer
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import ClusterSubnetView, ClusterView, InterfaceView
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import networks as shapes
from regiond.use_cases.requests import Caller


def cluster(view: ClusterView) -> shapes.Cluster:
    return {
        "id": format_id(Prefix.CLUSTER, view.id),
        "name": view.name,
        "vrf": view.vrf,
        "hostname": view.hostname,
        "backend": view.backend,
        "software_version": view.software_version,
        "connected": view.connected,
        "connected_since": moment(view.connected_since),
        "last_heard": moment(view.last_heard),
        "enrolled": moment(view.enrolled),
        "certificate_expires": moment(view.certificate_expires),
        "revoked": moment(view.revoked),
        "turns_seen": moment(view.turns_seen),
        "subnets": [_cluster_subnet(subnet) for subnet in view.subnets],
        "etag": versions.of_cluster(view.id, view.name, view.vrf),
    }


def enrolment(offer: EnrolmentOffer) -> shapes.Enrolment:
    """With the token, which is shown this once."""
    return {
        "name": offer.enrolment.name,
        "token": offer.enrolment.text,
        "expires_at": moment(offer.enrolment.expires_at),
        "endpoint": offer.address,
        "fingerprint": offer.fingerprint,
        "command": offer.command,
    }


def interface(view: InterfaceView, caller: Caller) -> shapes.ClusterInterface:
    """A cluster interface; the controller's own MAC address is an admin's to see."""
    return {
        "id": format_id(Prefix.CLUSTER_INTERFACE, view.id),
        "cluster": {"id": format_id(Prefix.CLUSTER, view.cluster), "name": view.cluster_name},
        "nic": view.nic,
        "cidr": view.cidr,
        "vrf": view.vrf,
        "subnet": optional_id(Prefix.SUBNET, view.subnet),
        "addresses": list(view.addresses),
        "gateways": list(view.gateways),
        "mac": view.mac if caller.is_admin else None,
        "kind": view.kind,
        "vlan": view.vlan,
        "up": view.up,
        "present": view.present,
        "serving": view.serving,
        "relayed": view.relayed,
        "conflict": view.conflict,
        "etag": versions.of_interface(view.id, view.serving == "serving"),
    }


def _cluster_subnet(view: ClusterSubnetView) -> shapes.ClusterSubnet:
    return {
        "id": format_id(Prefix.SUBNET, view.subnet),
        "cidr": view.cidr,
        "role": view.role,
        "desired_generation": view.desired_generation,
        "accepted_generation": view.accepted_generation,
        "applied_generation": view.applied_generation,
        "pending": view.desired_generation - view.applied_generation,
        "error": view.error,
        "since": moment(view.since),
        "drift": _drift(view),
    }


def _drift(view: ClusterSubnetView) -> shapes.Drift | None:
    if view.drift_count is None or view.drift_at is None:
        return None
    return {"repaired": view.drift_count, "at": moment(view.drift_at)}
