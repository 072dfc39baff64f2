"""What is sent about clusters and their interfaces."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from regiond.http.bodies.base import Body, Page, Query
from regiond.http.fields import Flag, SelectorText, Whole, seconds_from_now

MAX_ENROLMENT_SECONDS = 7 * 86400


EnrolmentExpiresIn = Annotated[
    int,
    Field(ge=60, le=MAX_ENROLMENT_SECONDS, description="seconds from now", examples=[86400]),
    Whole,
    seconds_from_now(60, MAX_ENROLMENT_SECONDS),
]


class NewEnrolmentBody(Body):
    """A one-time token for a cluster; an hour by default."""

    examples: ClassVar[Mapping[str, Any]] = {"a day": {"expires_in": 86400}}

    expires_in: EnrolmentExpiresIn | None = None


class Forgetting(Query):
    """Forget a cluster that may still serve host maps: its DHCP server is off for good, says the admin."""

    dhcp_is_off: Annotated[
        Flag, Field(description="its DHCP server is off for good and answers nobody with what it may still have")
    ] = False


class InterfacePage(Page):
    """With `selector`, only the cluster interfaces that it names."""

    selector: Annotated[SelectorText | None, Field(description="only those that it means: try one")] = None
