"""VRFs as people and programs see them."""

from regiond.domain import versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.vrfs import VrfView
from regiond.http.representations.values import moment
from regiond.http.shapes import vrfs as shapes


def vrf(view: VrfView) -> shapes.Vrf:
    return {
        "id": format_id(Prefix.VRF, view.id),
        "name": view.name,
        "comment": view.comment,
        "created": moment(view.created),
        "subnets": view.subnets,
        "clusters": view.clusters,
        "etag": versions.of_vrf(view.id, view.comment),
    }
