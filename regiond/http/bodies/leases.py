"""What is asked about leases."""

from typing import Annotated

from pydantic import Field

from regiond.http.bodies.base import Query
from regiond.http.fields import DEFAULT_PAGE, Limit

MAX_FILTERED = 100

_Address = Annotated[str, Field(json_schema_extra={"format": "hostmap-address"})]
_Mac = Annotated[str, Field(json_schema_extra={"format": "hostmap-mac"})]


class LeasePage(Query):
    """A part of a list: leases on at most `limit` addresses above `after`; of these addresses and clients only."""

    limit: Limit = DEFAULT_PAGE
    after: Annotated[_Address | None, Field(description="the last address of the page before")] = None
    address: list[_Address] = Field(default=[], max_length=MAX_FILTERED, description="on these addresses only")
    mac: list[_Mac] = Field(default=[], max_length=MAX_FILTERED, description="of these clients only")
