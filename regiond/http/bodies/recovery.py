"""What is sent to begin and end a recovery."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from regiond.http.bodies.base import Body
from regiond.http.fields import Name, Text

MAX_GIVEN_UP = 1000


class RecoveryBegin(Body):
    """Why it is believed that the database went back; kept in the audit."""

    examples: ClassVar[Mapping[str, Any]] = {"a backup": {"reason": "restored from the backup of Monday"}}

    reason: Text


class RecoveryEnd(Body):
    """`force`: also when clusters that may serve unknown addresses were not heard. `without` (names): wait no more for
    these, and go on waiting for the others.
    """

    examples: ClassVar[Mapping[str, Any]] = {
        "no cluster that is missing will come": {"force": True},
        "one of them will not": {"without": ["rack-8"]},
    }

    force: bool = False
    without: list[Name] = Field(default=[], max_length=MAX_GIVEN_UP)
