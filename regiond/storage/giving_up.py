"""Waiting for a cluster no more, within somebody else's transaction: what may be lost by it stays on record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from regiond.domain.recovery import FindingKind
from regiond.storage.pool import Session
from regiond.storage.settling import MAY_HAVE

_GIVEN_UP: Final = f"""
WITH given_up AS (
    SELECT c.id, c.name, c.last_heard, s.id AS subnet, s.cidr FROM cluster c, subnet s
    WHERE c.id = ANY(%(clusters)s) AND c.unheard AND s.recovering_since IS NOT NULL AND {MAY_HAVE}),
told AS (
    INSERT INTO recovery_finding (history, kind, subnet, detail)
    SELECT r.history, %(kind)s, g.subnet,
           format('cluster %%s was not heard (last heard of: %%s): what it serves of %%s and the region does not know '
                  'may be given to somebody else', g.name, coalesce(g.last_heard::text, 'never'), g.cidr)
    FROM given_up g, region r),
heard AS (UPDATE cluster SET unheard = false WHERE id = ANY(%(clusters)s) AND unheard)
SELECT name, cidr::text FROM given_up ORDER BY name, cidr
"""  # noqa: S608 (constants only)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A cluster that was not heard of a subnet."""

    cluster: str
    cidr: str


async def give_up(session: Session, clusters: Sequence[int]) -> list[GivenUp]:
    """Nobody waits for these clusters any more; what each was not heard of. Those that were heard are none of it."""
    rows = await session.run(_GIVEN_UP, {"clusters": list(clusters), "kind": FindingKind.GIVEN_UP.value})
    return [GivenUp(*row) for row in rows]
