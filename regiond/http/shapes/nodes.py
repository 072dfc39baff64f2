"""What nodes look like."""

from regiond.http.shapes.values import Etag, Mac, Moment, NodeId, Shape


class Node(Shape):
    id: NodeId
    hostname: str
    macs: list[Mac]
    owner: str
    comment: str | None
    created: Moment
    etag: Etag
