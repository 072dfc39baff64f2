"""What goes with a file of reservations."""

from typing import Annotated

from pydantic import Field

from regiond.http.bodies.base import Waiting
from regiond.http.fields import Flag


class Importing(Waiting):
    """Only said what it would do, unless `dry_run` is false. `ignore`: columns of the file that are passed over.

    `wait`: how long the answer may wait until the import is over, 2 s by default.
    """

    dry_run: Annotated[Flag, Field(description="only say what would be done")] = True
    ignore: Annotated[
        list[Annotated[str, Field(max_length=100, json_schema_extra={"format": "hostmap-line"})]],
        Field(description="columns of the file that are passed over"),
    ] = Field(default=[], max_length=100)
