"""Nodes as people and programs see them."""

from regiond.domain import versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import NodeView
from regiond.http.representations.values import moment
from regiond.http.shapes import nodes as shapes


def node(view: NodeView) -> shapes.Node:
    return {
        "id": format_id(Prefix.NODE, view.id),
        "hostname": view.hostname,
        "macs": list(view.macs),
        "owner": view.owner_name,
        "comment": view.comment,
        "created": moment(view.created),
        "etag": versions.of_node(view.id, view.hostname, view.owner_name, view.comment, view.macs),
    }
