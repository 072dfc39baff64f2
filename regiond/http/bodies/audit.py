"""What is sent to find entries of the audit."""

from typing import Annotated, ClassVar

from pydantic import Field

from regiond.http.bodies.base import FilteredPage
from regiond.http.fields import Line, Time


class AuditPage(FilteredPage):
    """Filters; the values of one are alternatives, and all filters hold. `actor`: the name of an account."""

    not_filters: ClassVar[frozenset[str]] = FilteredPage.not_filters | {"since", "until"}

    object: list[Line] = Field(default=[], description="the id of what it was done to")
    actor: list[Line] = Field(
        default=[], description="the name of the account that did it; `region` is the region itself"
    )
    action: list[Line] = Field(default=[], description="such as `reservation.force-release`")
    request_id: list[Line] = Field(default=[], description="the X-Request-ID of the request")
    since: Annotated[Time | None, Field(description="at this time or later")] = None
    until: Annotated[Time | None, Field(description="before this time")] = None
