"""What is sent about what clusters' DHCP servers have of their own."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from regiond.http.bodies.base import Body, Page
from regiond.http.fields import AccountName, SelectorText

MAX_ADOPTED = 500


class Adopting(Body):
    """Static entries of a cluster's DHCP server that are to become devices; `owner` is whose, else the caller's."""

    examples: ClassVar[Mapping[str, Any]] = {
        "two entries": {"entries": ["fe-4k2m9q8xvz", "fe-4k2m9q8xw0"], "owner": "alice"}
    }

    entries: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=MAX_ADOPTED)
    owner: AccountName | None = None


class ForeignEntryPage(Page):
    """With `subnet`, an id or a selector, only what lies in that subnet."""

    subnet: Annotated[SelectorText | None, Field(description="only what lies in this subnet, by id or selector")] = None
