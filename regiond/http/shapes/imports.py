"""What an import looks like while it goes on and when it is over."""

from typing import Annotated

from pydantic import Field

from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.http.shapes.values import Count, ImportId, Moment, Shape


class ImportMistake(Shape):
    """What is wrong with a line. `line` counts from 1; null: with the file as a whole."""

    line: int | None
    column: str | None
    type: Annotated[str, Field(description="as the `type` of a problem")]
    detail: str


class Import(Shape):
    """A file of reservations. Nothing is changed before `state` is `done`, and then all of it is."""

    id: ImportId
    state: Annotated[
        ImportState,
        Field(description="`refused`: some lines cannot be done, see `mistakes`; `failed`: the region could not"),
    ]
    dry_run: bool
    format: LineFormat
    account: str
    checked: Annotated[Count, Field(description="lines that were looked at")]
    applied: Annotated[Count, Field(description="lines that are written, and count when `state` is `done`")]
    created: Annotated[Count, Field(description="reservations that are made, or would be")]
    present: Annotated[Count, Field(description="lines whose reservation is there already, exactly so")]
    skipped: Annotated[Count, Field(description="lines that were being released when they were exported")]
    mistake_count: Count
    mistakes: Annotated[list[ImportMistake], Field(description="the first 1000, in order of line")]
    reason: str | None
    request_id: str
    began: Moment
    finished: Moment | None
