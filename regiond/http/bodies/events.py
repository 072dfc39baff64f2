"""What is asked of events."""

from typing import Annotated

from pydantic import Field

from regiond.domain.events import EventKind
from regiond.http.bodies.base import Query
from regiond.http.fields import EventIdText, SelectorText, Wait


class Following(Query):
    """Filters; the values of one are alternatives, and all filters hold.

    `after` is for those who cannot send `Last-Event-ID`. With `wait` the stream ends when nothing has come for so many
    seconds.
    """

    kind: list[Annotated[str, Field(json_schema_extra={"enum": list(EventKind)})]] = Field(
        default=[], description="only events of these kinds"
    )
    subnet: list[SelectorText] = Field(default=[], description="only of the subnets that these selectors mean")
    after: Annotated[
        EventIdText | None, Field(description="for those who cannot send Last-Event-ID: what happened after this id")
    ] = None
    wait: Annotated[
        Wait | None, Field(description="the stream ends when nothing has come for so many seconds; without it, never")
    ] = None
