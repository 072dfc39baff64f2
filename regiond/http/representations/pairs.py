"""The clusters on a subnet as people and programs see them."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.pairs import ClusterOnSubnet
from regiond.http.representations.values import moment
from regiond.http.shapes import pairs as shapes


def cluster_on_subnet(found: ClusterOnSubnet) -> shapes.ClusterOnSubnet:
    return {
        "id": format_id(Prefix.CLUSTER, found.cluster),
        "name": found.name,
        "connected": found.connected,
        "nics": list(found.nics),
        "other_vrfs": list(found.other_vrfs),
        "role": found.role,
        "desired_generation": found.desired_generation,
        "accepted_generation": found.accepted_generation,
        "applied_generation": found.applied_generation,
        "error": found.error,
        "since": moment(found.since),
    }
