"""A recovery as people and programs see it."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.recovery import RecoveryView
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import recovery as shapes


def recovery(view: RecoveryView) -> shapes.Recovery:
    """How far a recovery is; `since` is None when none goes on."""
    return {
        "history": view.history,
        "since": moment(view.since),
        "reason": view.reason,
        "clusters": [
            {
                "id": format_id(Prefix.CLUSTER, each.id),
                "name": each.name,
                "connected": each.connected,
                "heard": not each.unheard,
                "last_heard": moment(each.last_heard),
                "software_version": each.software_version,
                "revoked": each.revoked,
                "advice": each.advice,
            }
            for each in view.clusters
        ],
        "subnets": [
            {
                "id": format_id(Prefix.SUBNET, each.id),
                "cidr": each.cidr,
                "vrf": each.vrf,
                "since": moment(each.since),
                "waits_for": list(each.waits_for),
            }
            for each in view.subnets
        ],
        "counts": dict(view.counts),
        "findings": [
            {
                "at": moment(each.at),
                "kind": each.kind,
                "subnet": optional_id(Prefix.SUBNET, each.subnet),
                "cidr": each.cidr,
                "address": each.address,
                "reservation": optional_id(Prefix.RESERVATION, each.reservation),
                "detail": each.detail,
            }
            for each in view.findings
        ],
    }
