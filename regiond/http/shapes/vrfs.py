"""What VRFs look like."""

from regiond.http.shapes.values import Count, Etag, Moment, Shape, VrfId


class Vrf(Shape):
    """A routing domain, with the numbers of subnets in it and of clusters whose own it is."""

    id: VrfId
    name: str
    comment: str | None
    created: Moment
    subnets: Count
    clusters: Count
    etag: Etag
