"""Devices as people and programs see them."""

from regiond.domain import versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import DeviceView
from regiond.http.representations.reservations import reservation
from regiond.http.representations.values import moment
from regiond.http.shapes import devices as shapes


def device(view: DeviceView) -> shapes.Device:
    held = [one.reservation for one in view.reservations]
    return {
        "id": format_id(Prefix.DEVICE, view.id),
        "hostname": view.hostname,
        "macs": versions.macs_of(held),
        "owner": view.owner_name,
        "comment": view.comment,
        "created": moment(view.created),
        "etag": versions.of_device(view.id, view.hostname, view.owner_name, view.comment, held),
        "reservations": [reservation(one) for one in view.reservations],
    }
