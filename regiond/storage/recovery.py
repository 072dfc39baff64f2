"""Recoveries in the database: beginning, what clusters hand up, settling subnet by subnet. See Note [Recovery]."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusterd.protocol.values import HostMap
from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, format_id, parse_id
from regiond.domain.recovery import (
    FindingKind,
    FindingView,
    RecoveringCluster,
    RecoveringSubnet,
    RecoveryView,
)
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, lock_subnet, once, was_done, write_audit
from regiond.storage.giving_up import give_up
from regiond.storage.pool import Pool, Session
from regiond.storage.settling import MAY_HAVE, Settled, settle_subnet
from regiond.storage.topology import TOPOLOGY_LOCK

MAX_LISTED_FINDINGS: Final = 500

# In the lost past clusters may have connected, each time with the next number, and still be: no past has had so many.
LOST_EPOCHS: Final = 1_000_000

# When one regiond has noticed that the database went back, the others' counts are put ahead of what they had seen.
LOST_BEATS: Final = 1_000_000

_CONNECTED: Final = "(c.connected_since IS NOT NULL AND c.last_heard > now() - interval '60 s')"
_HOLDING: Final = "d.role IN ('serving', 'draining')"

# What a cluster has that this database cannot have given it. Its digest was wrong: that alone may be its disk's fault.
_CONTRADICTIONS: Final = """
SELECT count(*) FROM evidence e JOIN evidence_map m ON m.cluster = e.cluster AND m.name = e.name
JOIN subnet s ON s.id = e.subnet
LEFT JOIN host_map h ON h.subnet = e.subnet AND h.kind = m.kind AND h.identifier = m.identifier
WHERE e.cluster = %s AND e.name = %s AND NOT m.former
  AND (h.subnet IS NULL
       AND e.accepted_generation >= s.horizon
       OR h.generation <= e.accepted_generation AND (h.removed OR h.address <> m.address))
"""

_FINISHED: Final = """
UPDATE region SET recovering_since = NULL WHERE recovering_since IS NOT NULL
  AND NOT EXISTS (SELECT FROM subnet WHERE recovering_since IS NOT NULL) RETURNING history::text
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one cluster has of one subnet from another past. `name` is the subnet's id as the cluster knows it."""

    cluster: int
    name: str
    cidr: str
    history: str
    accepted_generation: int
    applied_generation: int


class RecoveryStore:
    """The only SQL about recoveries, but for the settling of one subnet."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    # ---- beginning and ending ----

    async def begin(
        self, change: Change, reason: str, of_history: str | None = None, *, anew: bool = False
    ) -> str | None:
        """Begin a recovery of every subnet, under a new history; None when one goes on already. A subnet that is being
        made is waited for: it recovers, too.

        `anew` even then: what goes on is one that the backup was taken in the middle of. With `of_history` only as long
        as the database has that history: somebody else may have been faster. Every connection of a cluster is an older
        one from now on.
        """

        begun: str | None = None

        async def work(session: Session) -> int:
            nonlocal begun
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run("SELECT history::text, recovering_since IS NOT NULL FROM region FOR UPDATE")
            history, recovering = rows[0]
            if begun == history:
                return 0  # it is ours, whose commit was not answered
            if (recovering and not anew) or of_history not in (None, history):
                raise errors.AlreadyRecovering("a recovery goes on already")
            await session.run("INSERT INTO former_history (history, reason) VALUES (%s, %s)", (history, reason))
            fresh = await session.run(
                """UPDATE region SET history = gen_random_uuid(), recovering_since = now(), recovery_reason = %s
                   RETURNING history::text""",
                (reason,),
            )
            await session.run("DELETE FROM evidence")
            await session.run("UPDATE witness SET beats = beats + %s", (LOST_BEATS,))
            await session.run(
                """UPDATE cluster SET epoch = epoch + %s, connected_since = NULL, unheard = forgotten IS NULL""",
                (LOST_EPOCHS,),
            )
            await session.run(
                f"""UPDATE delivery d SET accepted_generation = 0, applied_generation = 0, error = NULL, since = now()
                    WHERE {_HOLDING}"""  # noqa: S608 (constants only)
            )
            await session.run(
                """UPDATE subnet SET recovering_since = now(), fork_generation = generation, fork_at = now(),
                                     evidence_generation = NULL"""
            )
            after = {"history": fresh[0][0], "reason": reason}
            await write_audit(session, change, "recovery.begin", "region", {"history": history}, after)
            begun = str(fresh[0][0])
            return 0

        try:
            await once(self._pool, change, work, deadline=LONG_DEADLINE_SECONDS, sets=True)
        except errors.AlreadyRecovering:
            return None
        return begun

    async def end_waiting(self, change: Change, *, force: bool, without: Collection[str] = ()) -> tuple[str, ...]:
        """Settle without the clusters that were not heard, or only `without` these; their names.

        Raises NotRecovering, NotAllHeard, and InvalidRequest for one `without` that nobody waits for.
        """

        names: tuple[str, ...] = ()

        async def work(session: Session) -> int:
            nonlocal names
            rows = await session.run("SELECT recovering_since IS NOT NULL FROM region FOR UPDATE")
            if not rows[0][0]:
                raise errors.NotRecovering("no recovery goes on")
            unheard = {
                row[0]: row[1]
                for row in await session.run(
                    f"""SELECT c.name, c.id FROM cluster c WHERE c.unheard AND EXISTS (
                            SELECT FROM subnet s WHERE s.recovering_since IS NOT NULL AND {MAY_HAVE})
                        ORDER BY c.name FOR UPDATE"""  # noqa: S608 (constants only)
                )
            }
            for name in without:
                if name not in unheard:
                    raise errors.InvalidRequest("/without", f"nobody waits for {name}")
            names = tuple(name for name in unheard if name in without or not without)
            if names and not force and not without:
                raise errors.NotAllHeard(
                    "these may serve addresses that the region does not know of, and were not heard: "
                    f"{', '.join(names[:20])}{' and more' if len(names) > 20 else ''}. Where it is ended by force, the "
                    "region may give such an address to somebody else",
                    clusters=list(names),
                )
            given_up: dict[str, list[str]] = {name: [] for name in names}
            for one in await give_up(session, [unheard[name] for name in names]):
                given_up[one.cluster].append(one.cidr)
            if not without:
                await session.run("UPDATE cluster SET unheard = false WHERE unheard")
            before = {"not_heard": list(names), "given_up": given_up}
            await write_audit(session, change, "recovery.end", "region", before, None)
            return 0

        await once(self._pool, change, work, sets=True)
        return names

    async def was_done(self, change: Change) -> bool:
        """As `changes.was_done`."""
        return await was_done(self._pool, change)

    async def finish(self) -> str | None:
        """The history that goes on when every subnet is settled; None when there is nothing to finish."""
        rows = await self._pool.query(_FINISHED, retry=True)
        return rows[0][0] if rows else None

    # ---- what clusters hand up ----

    async def hearing(self, cluster: int, history: str) -> None:
        """This cluster has something from another past: until it handed that up, no subnet that it holds is settled."""

        async def work(session: Session) -> None:
            await session.run("UPDATE cluster SET unheard = true WHERE id = %s", (cluster,))
            await session.run(
                "INSERT INTO former_history (history, reason) VALUES (%s, 'a cluster had it') ON CONFLICT DO NOTHING",
                (history,),
            )

        await self._pool.transaction(work, retry=True)

    async def knows(self, history: str) -> bool:
        """Whether it is a past that ended, as far as this database knows."""
        rows = await self._pool.query(
            "SELECT EXISTS (SELECT FROM former_history WHERE history = %s)", (history,), retry=True
        )
        return bool(rows[0][0])

    async def generation(self, subnet: int) -> int | None:
        """The subnet's generation; None when this database has no such subnet.

        One is deleted only when every cluster has forgotten it: a cluster that has it is of another past.
        """
        rows = await self._pool.query("SELECT generation FROM subnet WHERE id = %s", (subnet,), retry=True)
        return int(rows[0][0]) if rows else None

    async def take(self, evidence: Evidence) -> None:
        """From now on pages of it come; what came before is dropped."""

        async def work(session: Session) -> None:
            key = (evidence.cluster, evidence.name)
            await session.run("DELETE FROM evidence WHERE cluster = %s AND name = %s", key)
            number = parse_id(Prefix.SUBNET, evidence.name)
            await session.run(
                """INSERT INTO evidence (cluster, name, subnet, cidr, history, accepted_generation, applied_generation)
                   SELECT %s, %s, coalesce((SELECT id FROM subnet WHERE id = %s AND cidr = %s),
                       (SELECT s.id FROM subnet s JOIN cluster c ON c.vrf = s.vrf WHERE c.id = %s AND s.cidr = %s)),
                       %s, %s, %s, %s""",
                (
                    *(*key, number, evidence.cidr, evidence.cluster, evidence.cidr),
                    *(evidence.cidr, evidence.history, evidence.accepted_generation, evidence.applied_generation),
                ),
            )

        await self._pool.transaction(work, retry=True)

    async def add_maps(self, cluster: int, name: str, host_maps: Sequence[HostMap], *, former: bool = False) -> None:
        """One page of what the cluster has, or of `former` host maps. A page that comes twice counts once."""
        await self._pool.execute(
            """INSERT INTO evidence_map (cluster, name, former, kind, identifier, address, hostname)
               SELECT %s, %s, %s, unnest(%s::text[]), decode(unnest(%s::text[]), 'hex'), unnest(%s::inet[]),
                      unnest(%s::text[]) ON CONFLICT DO NOTHING""",
            (
                *(cluster, name, former, [m.identifier.kind.value for m in host_maps]),
                *([m.identifier.value.hex() for m in host_maps], [m.address for m in host_maps]),
                [m.hostname for m in host_maps],
            ),
            retry=True,
        )

    async def complete(self, cluster: int, name: str) -> None:
        """All pages came. A cluster that has host maps of a subnet without being a holder becomes one: to forget."""

        async def work(session: Session) -> None:
            rows = await session.run(
                "UPDATE evidence SET complete = true WHERE cluster = %s AND name = %s RETURNING subnet, cidr::text",
                (cluster, name),
            )
            subnet, cidr = rows[0]
            if subnet is None:
                await session.run(
                    """INSERT INTO recovery_finding (history, kind, detail)
                       SELECT r.history, %s, format('cluster %%s has %%s host maps of %%s, which is no subnet here',
                           c.name, (SELECT count(*) FROM evidence_map WHERE cluster = %s AND name = %s), %s::text)
                       FROM region r, cluster c WHERE c.id = %s""",
                    (FindingKind.UNKNOWN_NETWORK.value, cluster, name, cidr, cluster),
                )
            elif parse_id(Prefix.SUBNET, name) == subnet:
                await session.run(
                    """INSERT INTO delivery (subnet, cluster, role) VALUES (%s, %s, 'draining')
                       ON CONFLICT (subnet, cluster) DO UPDATE SET role = 'draining', since = now()
                       WHERE delivery.role = 'former'""",
                    (subnet, cluster),
                )

        await self._pool.transaction(work, retry=True)

    async def drop(self, cluster: int, name: str) -> None:
        """It was no evidence of anything."""
        await self._pool.execute("DELETE FROM evidence WHERE cluster = %s AND name = %s", (cluster, name), retry=True)

    async def contradictions(self, cluster: int, name: str) -> int:
        """How many of the host maps that a cluster handed up this database cannot have given it."""
        return int((await self._pool.query(_CONTRADICTIONS, (cluster, name), retry=True))[0][0])

    async def heard(self, cluster: int) -> None:
        """The cluster has handed up everything, or has nothing."""
        await self._pool.execute("UPDATE cluster SET unheard = false WHERE id = %s AND unheard", (cluster,), retry=True)

    async def waits_for(self, cluster: int) -> bool:
        """Whether it still has to be heard: nobody has ended the wait for it."""
        rows = await self._pool.query("SELECT unheard FROM cluster WHERE id = %s", (cluster,), retry=True)
        return bool(rows and rows[0][0])

    async def may_have(self, cluster: int) -> list[int]:
        """The subnets of which the cluster may have host maps, as far as this database can know."""
        rows = await self._pool.query(
            f"SELECT s.id FROM subnet s, cluster c WHERE c.id = %s AND {MAY_HAVE} ORDER BY s.id",  # noqa: S608 (constants only)
            (cluster,),
            retry=True,
        )
        return [row[0] for row in rows]

    # ---- settling ----

    async def to_settle(self) -> list[int]:
        """The subnets that can be settled: those whose clusters were all heard, and what came late."""
        rows = await self._pool.query(
            f"""SELECT s.id FROM subnet s WHERE s.recovering_since IS NOT NULL
                    AND NOT EXISTS (SELECT FROM cluster c WHERE c.unheard AND {MAY_HAVE})
                UNION SELECT e.subnet FROM evidence e JOIN subnet s ON s.id = e.subnet
                WHERE e.complete AND NOT e.settled AND s.recovering_since IS NULL""",  # noqa: S608 (constants only)
            retry=True,
        )
        return [row[0] for row in rows]

    async def settle(self, subnet: int) -> Settled | None:
        """Settle one subnet; None when there is nothing to settle (any more, or yet)."""

        async def work(session: Session) -> Settled | None:
            await lock_subnet(session, subnet)
            return await settle_subnet(session, subnet, self._new_id)

        return await self._pool.transaction(work, retry=True, deadline=LONG_DEADLINE_SECONDS)

    # ---- a database that went back ----

    async def beat(self, regiond: str) -> tuple[int, str]:
        """Count one up for this regiond: what it is then, and the database's history."""
        rows = await self._pool.query(
            """INSERT INTO witness (regiond, beats) VALUES (%s, 1)
               ON CONFLICT (regiond) DO UPDATE SET beats = witness.beats + 1, last_beat = now()
               RETURNING beats, (SELECT history::text FROM region)""",
            (regiond,),
        )
        return int(rows[0][0]), str(rows[0][1])

    # ---- what is shown ----

    async def view(self) -> RecoveryView:
        """The recovery that goes on, or the latest one."""

        async def work(session: Session) -> tuple[list[Any], ...]:
            return (
                await session.run("SELECT history::text, recovering_since, recovery_reason FROM region"),
                await session.run(
                    f"""SELECT c.id, c.name, {_CONNECTED}, c.unheard, c.last_heard, c.software_version,
                               c.revoked IS NOT NULL FROM cluster c
                        WHERE EXISTS (SELECT FROM subnet s WHERE s.recovering_since IS NOT NULL AND (
                            c.unheard AND {MAY_HAVE} OR EXISTS (
                                SELECT FROM delivery d WHERE d.cluster = c.id AND d.subnet = s.id AND {_HOLDING})))
                        ORDER BY c.name"""  # noqa: S608 (constants only)
                ),
                await session.run(
                    f"""SELECT s.id, s.cidr::text, v.name, s.recovering_since,
                               ARRAY(SELECT c.name FROM cluster c WHERE c.unheard AND {MAY_HAVE} ORDER BY c.name)
                        FROM subnet s JOIN vrf v ON v.id = s.vrf WHERE s.recovering_since IS NOT NULL
                        ORDER BY v.name, s.cidr"""  # noqa: S608 (constants only)
                ),
                await session.run(
                    """SELECT f.kind, count(*) FROM recovery_finding f JOIN region r ON r.history = f.history
                       GROUP BY f.kind ORDER BY f.kind"""
                ),
                await session.run(
                    """SELECT f.id, f.at, f.kind, f.subnet, s.cidr::text, host(f.address), f.reservation, f.detail
                       FROM recovery_finding f JOIN region r ON r.history = f.history
                       LEFT JOIN subnet s ON s.id = f.subnet
                       ORDER BY f.kind = 'recovered', f.id DESC LIMIT %s""",
                    (MAX_LISTED_FINDINGS,),
                ),
            )

        region, clusters, subnets, counts, findings = await self._pool.transaction(
            work, retry=True, isolation="REPEATABLE READ"
        )
        return RecoveryView(
            history=region[0][0],
            since=region[0][1],
            reason=region[0][2],
            clusters=tuple(RecoveringCluster(*row) for row in clusters),
            subnets=tuple(RecoveringSubnet(row[0], row[1], row[2], row[3], tuple(row[4])) for row in subnets),
            counts=dict(counts),
            findings=tuple(FindingView(*row) for row in findings),
        )


def subnet_name(subnet: int) -> str:
    """A subnet's id as clusters know it."""
    return format_id(Prefix.SUBNET, subnet)
