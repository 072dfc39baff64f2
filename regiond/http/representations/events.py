"""Events as people and programs see them: the text/event-stream of HTML's server-sent events."""

from typing import Final

from pydantic_core import to_json

from regiond.domain.events import Event, EventKind
from regiond.domain.ids import Prefix, format_id
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import events as shapes
from regiond.http.shapes.values import SubnetName
from regiond.use_cases.events import Told
from regiond.use_cases.requests import Caller

RETRY_MILLISECONDS: Final = 2000


def beginning() -> bytes:
    """How long a client waits before it connects again."""
    return b"retry: %d\n\n" % RETRY_MILLISECONDS


def told(news: Told, caller: Caller) -> bytes:
    """What a follower is told, with where it is then: also when nothing is for it, so that it need not look again."""
    blocks = [
        _block(event.kind.value, _data(event, caller), f"{news.at.history[:8]}-{event.position}")
        for event in news.events
    ]
    if not news.events or news.events[-1].position < news.at.position:
        blocks.append(b": nothing new\nid: %s\n\n" % str(news.at).encode())
    if news.ends is not None:
        end: shapes.EndEvent = {"reason": news.ends, "list_again": news.lost}
        blocks.append(_block("end", end, None))
    return b"".join(blocks)


def _block(name: str, data: object, id_: str | None) -> bytes:
    """JSON has no line breaks, so the data is one line."""
    where = b"" if id_ is None else b"id: %s\n" % id_.encode()
    return b"%sevent: %s\ndata: %s\n\n" % (where, name.encode(), to_json(data))


def _data(event: Event, caller: Caller) -> shapes.ReservationEvent | shapes.HostMapEvent | shapes.ClusterEvent:
    match event.kind:
        case EventKind.RESERVATION:
            return _of_reservation(event)
        case EventKind.HOST_MAP:
            return _of_host_map(event, caller)
        case EventKind.CLUSTER:
            return {
                "at": moment(event.at),
                "action": event.action,
                "cluster": {"id": format_id(Prefix.CLUSTER, event.cluster or 0), "name": event.cluster_name or ""},
                "subnet": _subnet(event),
            }


def _of_reservation(event: Event) -> shapes.ReservationEvent:
    assert event.reservation is not None and event.reservation_kind is not None
    return {
        "at": moment(event.at),
        "action": event.action,
        "reservation": format_id(Prefix.RESERVATION, event.reservation),
        "kind": event.reservation_kind,
        "address": event.address or "",
        "subnet": _subnet(event),
        "owner": event.owner_name,
        "device": optional_id(Prefix.DEVICE, event.device),
        "node": optional_id(Prefix.NODE, event.node),
    }


def _of_host_map(event: Event, caller: Caller) -> shapes.HostMapEvent:
    visible = [one for one in event.maps if caller.is_admin or one.owner == caller.account]
    return {
        "at": moment(event.at),
        "action": event.action,
        "cluster": {"id": format_id(Prefix.CLUSTER, event.cluster or 0), "name": event.cluster_name or ""},
        "subnet": _subnet(event),
        "generation": event.generation or 0,
        "error": event.error if caller.is_admin else None,
        "reservations": [format_id(Prefix.RESERVATION, one.reservation) for one in visible],
        "refused": [format_id(Prefix.RESERVATION, one.reservation) for one in visible if one.refused],
        "complete": not event.more,
    }


def _subnet(event: Event) -> SubnetName | None:
    if event.subnet is None or event.cidr is None:
        return None
    return {"id": format_id(Prefix.SUBNET, event.subnet), "cidr": event.cidr, "vrf": event.vrf or ""}
