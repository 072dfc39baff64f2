"""What devices look like."""

from regiond.http.shapes.reservations import Reservation
from regiond.http.shapes.values import DeviceId, Etag, Mac, Moment, Shape


class Device(Shape):
    """An unmanaged device with its reservations."""

    id: DeviceId
    hostname: str | None
    macs: list[Mac]
    owner: str
    comment: str | None
    created: Moment
    etag: Etag
    reservations: list[Reservation]
