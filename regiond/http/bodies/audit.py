"""What is sent to find entries of the audit."""

from pydantic import Field

from regiond.http.bodies.base import FilteredPage
from regiond.http.fields import Line


class AuditPage(FilteredPage):
    """Filters; the values of one are alternatives, and all filters hold."""

    object: list[Line] = Field(default=[])
    actor: list[Line] = Field(default=[])
    action: list[Line] = Field(default=[])
    request_id: list[Line] = Field(default=[])
