"""The authority, certificates and enrolment tokens in the database. Every change writes its audit row with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from regiond.domain import errors, versions
from regiond.domain.accounts import StoredSecret
from regiond.domain.identity import Registered
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.storage.changes import Change, once, write_audit
from regiond.storage.pool import Pool, Session
from regiond.storage.settling import MAY_HAVE

MAX_CERTIFICATES_A_DAY: Final = 50  # of one cluster, which needs one in 200 days, and another where an answer is lost


@dataclass(frozen=True, slots=True)
class StoredAuthority:
    """PEM texts."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate as it is recorded. `pem` goes to the cluster."""

    serial: str
    expires: datetime
    pem: str


Issue = Callable[[int, str], Issued]
"""From a cluster's id and name to its certificate."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    cluster: int
    name: str
    certificate: Issued


class CertificateStore:
    """The only SQL about who may be a cluster."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def authority(self, make: Callable[[], StoredAuthority]) -> StoredAuthority:
        """The region's one authority; the first regiond that asks makes it."""
        read = "SELECT certificate, private_key FROM authority"
        rows = await self._pool.query(read, retry=True)
        if not rows:
            made = make()
            await self._pool.execute(
                "INSERT INTO authority (certificate, private_key) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (made.certificate, made.key),
                retry=True,
            )
            rows = await self._pool.query(read, retry=True)
        return StoredAuthority(*rows[0])

    # ---- enrolment ----

    async def create_enrolment(
        self, change: Change, name: str, number: int, secret: StoredSecret, seconds: int
    ) -> tuple[int, datetime]:
        """A token in place of the one that the name may have: its id, and when it expires, by the database's clock.

        A repeated idempotency key gives the token first made, whose id is another one. Raises NotFound when that one
        was used, withdrawn or replaced since.
        """

        async def put(session: Session) -> int:
            rows = await session.run(
                """INSERT INTO enrolment (name, id, salt, hash, expires_at)
                   VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
                   ON CONFLICT (name) DO UPDATE SET id = excluded.id, salt = excluded.salt, hash = excluded.hash,
                       created = now(), expires_at = excluded.expires_at
                   RETURNING expires_at""",
                (name, number, secret.salt, secret.hash, seconds),
            )
            expires_at: datetime = rows[0][0]
            after = {"name": name, "expires_at": expires_at.isoformat()}
            await write_audit(
                session, change, "cluster.enrolment-create", format_id(Prefix.ENROLMENT, number), None, after
            )
            return number

        found = "SELECT id, expires_at FROM enrolment WHERE id = %s"
        made = await once(self._pool, change, put, found, (number,))
        rows = await self._pool.query(found, (made,), retry=True)
        if not rows:
            raise errors.NotFound("the enrolment token that this request made was used, withdrawn or replaced since")
        return made, rows[0][1]

    async def withdraw_enrolment(self, change: Change, name: str) -> None:
        """Raises NotFound where there is no token for the name."""

        async def drop(session: Session) -> int:
            rows = await session.run("DELETE FROM enrolment WHERE name = %s RETURNING id", (name,))
            if not rows:
                raise errors.NotFound(f"there is no enrolment token for {name}")
            number: int = rows[0][0]
            object_id = format_id(Prefix.ENROLMENT, number)
            await write_audit(session, change, "cluster.enrolment-withdraw", object_id, {"name": name}, None)
            return number

        await once(self._pool, change, drop)

    async def is_enrolling(self) -> bool:
        """Whether any token is outstanding; those that have expired are removed."""
        await self._pool.execute("DELETE FROM enrolment WHERE expires_at <= now()", retry=True)
        rows = await self._pool.query("SELECT EXISTS (SELECT FROM enrolment)", retry=True)
        return bool(rows[0][0])

    async def enrol(self, change: Change, number: int, secret: str, issue: Issue) -> Enrolled:
        """Use a token up. A known name keeps its cluster and interfaces, and its old certificates are revoked.

        Raises EnrolmentRefused, with the same words whatever is wrong with the token.
        """

        async def run(session: Session) -> Enrolled:
            rows = await session.run(
                "SELECT name, salt, hash FROM enrolment WHERE id = %s AND expires_at > now() FOR UPDATE", (number,)
            )
            if not rows or not StoredSecret(bytes(rows[0][1]), bytes(rows[0][2])).fits(secret):
                raise errors.EnrolmentRefused("the token is unknown, used or expired")
            name: str = rows[0][0]
            await session.run("DELETE FROM enrolment WHERE id = %s", (number,))
            found = await session.run(
                """INSERT INTO cluster (id, name, enrolled) VALUES (%s, %s, now())
                   ON CONFLICT (name) DO UPDATE SET enrolled = now(), revoked = NULL, instance = NULL,
                       former_instances = '{}', turns_seen = NULL
                   RETURNING id""",
                (self._new_id(), name),
            )
            cluster: int = found[0][0]
            replaced = await _revoke_certificates(session, cluster)
            issued = issue(cluster, name)
            await _record(session, cluster, issued)
            await write_audit(
                session,
                change,
                "cluster.enrol",
                format_id(Prefix.CLUSTER, cluster),
                {"certificates": replaced} if replaced else None,
                {"name": name, "certificate": issued.serial},
            )
            return Enrolled(cluster, name, issued)

        # Not retried: whether a token was used up is not to be guessed.
        return await self._pool.transaction(run)

    async def renew(self, change: Change, registered: Registered, serial: str, issue: Issue) -> Issued:
        """Another certificate for a cluster whose present one is good. Raises EnrolmentRefused."""

        async def run(session: Session) -> Issued:
            rows = await session.run(
                """SELECT c.name FROM certificate t JOIN cluster c ON c.id = t.cluster
                   WHERE t.serial = %s AND c.id = %s AND t.revoked IS NULL AND c.revoked IS NULL
                     AND c.forgotten IS NULL FOR UPDATE OF c""",
                (serial, registered.cluster),
            )
            if not rows:
                raise errors.EnrolmentRefused("the present certificate is revoked")
            [(issued_today,)] = await session.run(
                "SELECT count(*) FROM certificate WHERE cluster = %s AND issued > now() - interval '1 day'",
                (registered.cluster,),
            )
            if issued_today >= MAX_CERTIFICATES_A_DAY:
                raise errors.EnrolmentRefused(f"it has had {issued_today} certificates within a day: try again later")
            issued = issue(registered.cluster, rows[0][0])
            await _record(session, registered.cluster, issued)
            object_id = format_id(Prefix.CLUSTER, registered.cluster)
            await write_audit(
                session, change, "cluster.renew", object_id, {"certificate": serial}, {"certificate": issued.serial}
            )
            return issued

        return await self._pool.transaction(run)

    # ---- the end ----

    async def revoke(self, change: Change, cluster: int) -> Sequence[str] | None:
        """Let the cluster in no more, by whatever it has, also by a token for the name that it has now; the serials
        that were good until now.

        None when a repeated idempotency key finds that done. Raises StaleVersion.
        """
        serials: list[str] | None = None

        async def run(session: Session) -> int:
            nonlocal serials
            rows = await session.run(
                "SELECT c.name, v.name FROM cluster c JOIN vrf v ON v.id = c.vrf WHERE c.id = %s FOR UPDATE OF c",
                (cluster,),
            )
            versions.require(change.if_match, versions.of_cluster(cluster, *rows[0]))
            await session.run("UPDATE cluster SET revoked = coalesce(revoked, now()) WHERE id = %s", (cluster,))
            await session.run("DELETE FROM enrolment WHERE name = %s", (rows[0][0],))
            serials = await _revoke_certificates(session, cluster)
            object_id = format_id(Prefix.CLUSTER, cluster)
            await write_audit(session, change, "cluster.revoke", object_id, {"certificates": serials}, None)
            return cluster

        await once(self._pool, change, run, sets=True)
        return serials

    async def revoked_among(self, serials: Sequence[str]) -> set[str]:
        """Those that are not good any more, by revocation or age."""
        rows = await self._pool.query(
            "SELECT serial FROM certificate WHERE serial = ANY(%s) AND (revoked IS NOT NULL OR expires <= now())",
            (list(serials),),
            retry=True,
        )
        return {row[0] for row in rows}

    async def refused_among(self, clusters: Sequence[int]) -> set[int]:
        """The clusters among these that were revoked or forgotten."""
        rows = await self._pool.query(
            "SELECT id FROM cluster WHERE id = ANY(%s) AND (revoked IS NOT NULL OR forgotten IS NOT NULL)",
            (list(clusters),),
            retry=True,
        )
        return {row[0] for row in rows}

    async def held_subnets(self, cluster: int) -> list[tuple[int, str]]:
        """The subnets, id and CIDR, of which the cluster has or may still have host maps: also those of which a
        recovery waits to hear what it has.
        """
        rows = await self._pool.query(
            f"""SELECT s.id, s.cidr::text FROM subnet s, cluster c WHERE c.id = %s AND (
                    EXISTS (SELECT FROM delivery d WHERE d.cluster = c.id AND d.subnet = s.id AND d.role <> 'former')
                    OR c.unheard AND s.recovering_since IS NOT NULL AND {MAY_HAVE}) ORDER BY s.cidr""",  # noqa: S608 (constants only)
            (cluster,),
            retry=True,
        )
        return [(row[0], row[1]) for row in rows]


async def _record(session: Session, cluster: int, issued: Issued) -> None:
    await session.run(
        "INSERT INTO certificate (serial, cluster, expires) VALUES (%s, %s, %s)",
        (issued.serial, cluster, issued.expires),
    )


async def _revoke_certificates(session: Session, cluster: int) -> list[str]:
    rows = await session.run(
        "UPDATE certificate SET revoked = now() WHERE cluster = %s AND revoked IS NULL RETURNING serial", (cluster,)
    )
    return sorted(row[0] for row in rows)
