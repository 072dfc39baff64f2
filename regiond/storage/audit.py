"""Audit rows of changes that do not go through the writer, in the transaction of the change."""

import json
from collections.abc import Mapping
from typing import Any

from regiond.domain.mutations import Actor
from regiond.storage.pool import Session


async def write_audit(
    session: Session,
    actor: Actor,
    action: str,
    object_id: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    request_id: str,
) -> None:
    """Who did what to which object. `before` and `after` must be plain JSON values."""
    await session.run(
        """INSERT INTO audit (account, actor, action, object, before, after, request_id)
           VALUES (%s, %s, %s, %s, %s, %s, %s)""",
        (
            *(actor.account, actor.name, action, object_id),
            *(None if value is None else json.dumps(value) for value in (before, after)),
            request_id,
        ),
    )
