"""Imports over HTTP: a file is sent, and asked about until it is over."""

from typing import Final

from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportView
from regiond.domain.lines import LineFormat
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.bodies.imports import Importing
from regiond.http.representations.imports import an_import
from regiond.http.routing import BASE, Access, Answer, Call, Route, Upload, Uploaded, page, shown
from regiond.http.shapes import imports as shapes
from regiond.http.use_cases import UseCases

PATH: Final = f"{BASE}/imports"
IMPORT: Final = f"{PATH}/{{import}}"
MAX_BYTES: Final = 8_000_000

_FORMATS: Final = {
    **{form.media_type: form for form in LineFormat},
    "application/x-ndjson": LineFormat.JSONL,
    "application/jsonlines": LineFormat.JSONL,
}
_EXAMPLES: Final = {
    LineFormat.CSV.media_type: "address,mac,hostname\n192.0.2.7,00:16:3e:00:00:01,web1\n192.0.2.8,,printer\n",
    LineFormat.JSONL.media_type: '{"address":"192.0.2.7","macs":["00:16:3e:00:00:01"],"hostname":"web1"}\n',
}


def _id(view: ImportView) -> str:
    return format_id(Prefix.IMPORT, view.id)


async def create(use: UseCases, call: Call[Uploaded, Importing]) -> Answer:
    """A file as `GET /reservations?format=` writes it, or a spreadsheet: at most 10,000 lines of 1,000 columns.

    A line needs an address; `subnet` (and `vrf`) where several networks have it. Without `kind`, a line with a MAC
    address, client-id or DUID is a device if an admin sends it, and any other line a user reservation; `device` is a
    label: lines with the same one are one device. Nothing that is there is changed: a line whose reservation is there
    exactly so is counted as `present`, so that the same file can be sent again.

    By default it is only said what would be done; with `dry_run=false` all of it is done, or none. Every bad line is in
    `mistakes` with its number. Answered 201 when it is over, also when lines were `refused`, and 202 while it goes on:
    then ask for it at `Location`. It goes on whatever becomes of the connection, and on another regiond if this one
    dies.
    """
    form = _FORMATS[call.body.media_type]
    view = await use.imports.create(
        call.context, form, call.body.content, dry_run=call.query.dry_run, ignored=call.query.ignore
    )
    return Answer(201 if view.state.is_over else 202, an_import(view), [("Location", f"{PATH}/{_id(view)}")])


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    """Those of the last week that are over, and those that are not. A user sees its own."""
    query = call.query
    rows = await use.imports.read_list(call.context, limit=query.limit + 1, after=query.after)
    return page(call, rows, an_import, _id)


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(an_import(await use.imports.read(call.context, call.path["import"])))


ROUTES = [
    Route(
        "POST",
        PATH,
        create,
        Access.USER,
        "Import reservations",
        query=Importing,
        upload=Upload(tuple(_FORMATS), MAX_BYTES, _EXAMPLES),
        statuses=(201, 202),
        shows=shapes.Import,
        releasing=shapes.Import,
        refusals=("too-many-imports",),
    ),
    Route(
        "GET",
        PATH,
        read_list,
        Access.USER,
        "List imports",
        query=Page,
        list_of=Prefix.IMPORT,
        shows=shapes.Import,
    ),
    Route("GET", IMPORT, read, Access.USER, "Read an import", shows=shapes.Import),
]
