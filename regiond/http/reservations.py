"""Reservations over HTTP: all kinds are read here, user reservations are also made and released."""

from datetime import timedelta

from regiond.domain.ids import Prefix, format_id
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import ReservationEdit
from regiond.domain.views import ReservationView
from regiond.http.bodies.base import Claiming, Forcing, NoQuery, Waiting
from regiond.http.bodies.reservations import NewReservation, ReservationChange, ReservationPage
from regiond.http.groups import GROUPS
from regiond.http.problems import invalid
from regiond.http.representations import reservations as show
from regiond.http.routing import (
    BASE,
    CLAIMING,
    SELECTING,
    Access,
    Answer,
    Call,
    Route,
    Streamed,
    created,
    page,
    released,
    shown,
)
from regiond.http.shapes import reservations as shapes
from regiond.http.use_cases import UseCases

PATH = f"{BASE}/reservations"
RESERVATION = f"{PATH}/{{reservation}}"


def _id(view: ReservationView) -> str:
    return format_id(Prefix.RESERVATION, view.reservation.id)


async def create(use: UseCases, call: Call[NewReservation, Claiming]) -> Answer:
    """One reservation is answered as itself, several as a group."""
    body = call.body
    views, new = await use.claims.reserve(
        call.context,
        interface=body.interface,
        address=body.address,
        mac=body.mac,
        count=body.count,
        hostname=body.hostname,
        purpose=body.purpose,
        comment=body.comment,
        user=body.user,
        expires_at=None if body.expires_in is None else call.now + timedelta(seconds=body.expires_in),
        force=call.query.force,
    )
    if body.count == 1:
        return created(show.reservation(views[0]), f"{PATH}/{_id(views[0])}", new)
    content = show.group(views)
    return created(content, f"{GROUPS}/{content['group']}", new)


async def read_list(use: UseCases, call: Call[None, ReservationPage]) -> Answer:
    """With `format`, all of them as a file that `POST /imports` takes: in order of id, read page by page while it is
    sent. What was there from the beginning to the end is in it exactly once; what came or went meanwhile is or is not.
    A file that breaks off (the connection ends without the last chunk) goes on with `after` and the last id in it.
    """
    query = call.query
    if query.format is not None:
        if "limit" in query.model_fields_set:
            raise invalid("?limit", "a file has all that the filters mean: leave it out")
        form = LineFormat(query.format)
        pieces = await use.exports.export(call.context, form, filters=query.filters, after=query.after)
        name = f"reservations-{call.now:%Y-%m-%d}.{form}"
        headers = [("Content-Disposition", f'attachment; filename="{name}"')]
        return Answer(200, Streamed(f"{form.media_type}; charset=utf-8", pieces), headers)
    rows = await use.claims.list_reservations(
        call.context, filters=query.filters, limit=query.limit + 1, after=query.after
    )
    return page(call, rows, show.reservation, _id)


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    view = await use.claims.reservation(call.context, call.path["reservation"])
    return shown(show.reservation(view))


async def change(use: UseCases, call: Call[ReservationChange, Waiting]) -> Answer:
    given = call.body.given
    changes: ReservationEdit = {}
    if "hostname" in given:
        changes["hostname"] = given["hostname"]
    if "comment" in given:
        changes["comment"] = given["comment"]
    if "expires_in" in given:
        seconds = given["expires_in"]
        changes["expires_at"] = None if seconds is None else call.now + timedelta(seconds=seconds)
    view = await use.edits.change_reservation(call.context, call.path["reservation"], changes=changes)
    return shown(show.reservation(view))


async def release(use: UseCases, call: Call[None, Forcing]) -> Answer:
    still = await use.claims.release_reservation(call.context, call.path["reservation"], force=call.query.force)
    return released(still, lambda: show.reservation(still[0]))


ROUTES = [
    Route(
        "POST",
        PATH,
        create,
        Access.USER,
        "Reserve addresses",
        NewReservation,
        Claiming,
        (201, 200),
        shows=shapes.Reservation | shapes.Group,
        refusals=(*CLAIMING, "not-permitted", "quota-exceeded"),
    ),
    Route(
        "GET",
        PATH,
        read_list,
        Access.USER,
        "List reservations",
        query=ReservationPage,
        list_of=Prefix.RESERVATION,
        shows=shapes.Reservation,
        streams=tuple(form.media_type for form in LineFormat),
        refusals=SELECTING,
    ),
    Route("GET", RESERVATION, read, Access.USER, "Read a reservation", shows=shapes.Reservation),
    Route(
        "PATCH",
        RESERVATION,
        change,
        Access.USER,
        "Change a reservation",
        ReservationChange,
        Waiting,
        conditional=True,
        shows=shapes.Reservation,
        refusals=("change-under-owner", "being-released"),
    ),
    Route(
        "DELETE",
        RESERVATION,
        release,
        Access.USER,
        "Release a user reservation",
        query=Forcing,
        statuses=(204, 202),
        conditional=True,
        releasing=shapes.Reservation,
        refusals=("delete-under-owner",),
    ),
]
