"""What is sent to begin and end a recovery."""

from collections.abc import Mapping
from typing import Any, ClassVar

from regiond.http.bodies.base import Body
from regiond.http.fields import Text


class RecoveryBegin(Body):
    """Why it is believed that the database went back; kept in the audit."""

    examples: ClassVar[Mapping[str, Any]] = {"a backup": {"reason": "restored from the backup of Monday"}}

    reason: Text


class RecoveryEnd(Body):
    """`force`: also when clusters that may serve unknown addresses were not heard."""

    examples: ClassVar[Mapping[str, Any]] = {"a cluster is gone for good": {"force": True}}

    force: bool = False
