"""What clusters report of their DHCP servers, in the database: kept out of allocation, and shown."""

from collections.abc import Sequence
from typing import Any, Final

from twisted.logger import Logger

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import Identifier, IdentifierKind, ServerEntry, ServerPool, parse_hex
from regiond.domain import errors
from regiond.domain.first_contact import (
    Contact,
    ContactView,
    DhcpServerReport,
    Difference,
    ForeignEntry,
    ReportedPool,
    difference,
)
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.networks import Network, network
from regiond.storage.batch import read_reservation
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, answered, keep_answer, rebuild_free_ranges
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session
from regiond.storage.topology import TOPOLOGY_LOCK

_POOLS: Final = """
SELECT p.id, host(p.low), host(p.high), p.source, s.cidr::text,
       (SELECT count(*) FROM reservation r WHERE r.subnet = s.id AND r.address BETWEEN p.low AND p.high)
FROM server_pool p LEFT JOIN LATERAL (
    SELECT s.id, s.cidr FROM delivery d JOIN subnet s ON s.id = d.subnet
    WHERE d.cluster = p.cluster AND d.role IN ('serving', 'draining') AND (p.low <<= s.cidr OR p.high <<= s.cidr)
    ORDER BY s.id LIMIT 1) s ON true
WHERE p.cluster = %s ORDER BY p.low, p.high, p.id
"""

# The identifiers of all its entries once, and not once for each of the page: there may be ten thousands.
_ENTRIES: Final = """
WITH page AS MATERIALIZED (
    SELECT e.*, s.id AS on_subnet, s.cidr AS on_cidr FROM server_entry e LEFT JOIN LATERAL (
        SELECT s.id, s.cidr FROM delivery d JOIN subnet s ON s.id = d.subnet
        WHERE d.cluster = e.cluster AND d.role = 'serving' AND e.address <<= s.cidr LIMIT 1) s ON true
    WHERE e.cluster = %(cluster)s AND (%(subnet)s::bigint IS NULL OR s.id = %(subnet)s)
      AND (%(only)s::bigint[] IS NULL OR e.id = ANY(%(only)s)) AND e.id > %(after)s ORDER BY e.id LIMIT %(most)s
), said AS MATERIALIZED (
    SELECT o.id, o.address, own.text FROM server_entry o, unnest(o.identifiers) AS own(text)
    WHERE o.cluster = %(cluster)s
), same_client AS MATERIALIZED (
    SELECT e.id, count(DISTINCT o.id) AS entries FROM page e CROSS JOIN LATERAL unnest(e.identifiers) AS own(text)
    JOIN said o ON o.text = own.text
    WHERE o.id <> e.id AND o.address <<= e.on_cidr AND o.address <> e.address GROUP BY e.id
)
SELECT e.id, c.id, c.name, c.backend, host(e.address), e.identifiers, e.hostname, e.source, s.id, s.cidr::text,
       coalesce(e.address BETWEEN s.first_usable AND s.last_usable, false),
       EXISTS (SELECT FROM server_pool p WHERE p.cluster = e.cluster AND e.address BETWEEN p.low AND p.high),
       (SELECT min(i.kind) FROM infrastructure_address i WHERE i.subnet = s.id AND i.address = e.address),
       (SELECT reservation_json(r) FROM reservation r WHERE r.subnet = s.id AND r.address = e.address),
       ARRAY(SELECT DISTINCT host(m.address) FROM unnest(e.identifiers) AS own(text)
             JOIN host_map m ON m.subnet = s.id AND m.kind = split_part(own.text, ':', 1)
                  AND m.identifier = decode(replace(substr(own.text, strpos(own.text, ':')), ':', ''), 'hex')
             WHERE NOT m.removed AND m.address <> e.address),
       coalesce((SELECT c.entries FROM same_client c WHERE c.id = e.id), 0),
       (SELECT count(*) FROM server_entry o
        WHERE o.cluster = e.cluster AND o.id <> e.id AND o.address = e.address)
FROM page e JOIN cluster c ON c.id = e.cluster LEFT JOIN subnet s ON s.id = e.on_subnet ORDER BY e.id
"""


class FirstContactStore:
    """See the module."""

    _log = Logger(namespace="region.contact")

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def answered(self, change: Change) -> str | None:
        """As `changes.answered`."""
        return await answered(self._pool, change)

    async def keep_answer(self, change: Change, answer: str) -> None:
        """As `changes.keep_answer`."""
        await keep_answer(self._pool, change, answer)

    async def expect(self, cluster: int, reports: bool, epoch: int | None = None) -> None:
        """The cluster registered, and says whether it will report. What it reported before stays until then.

        `epoch` is the number of that connection: it counts only while the cluster has no later one.
        """
        await self._pool.execute(
            """UPDATE cluster SET contact = CASE WHEN NOT %s THEN 'unsupported'
                   WHEN contact = 'reported' THEN contact ELSE 'awaited' END
               WHERE id = %s AND (%s::bigint IS NULL OR epoch <= %s)""",
            (reports, cluster, epoch, epoch),
            retry=True,
        )

    async def report(
        self, cluster: int, name: str, report: DhcpServerReport, epoch: int | None = None
    ) -> Sequence[int]:
        """Make what is stored of this cluster's DHCP server the reported; the subnets whose free space it concerns.

        Reservations that lie in a reported pool, or at an entry's address, stay as they are, and are told of. What is
        said on a connection that is not the cluster's latest (`epoch`, its number) changes nothing: what it says on
        that one must not be overwritten by what was true before.
        """

        async def apply(session: Session) -> tuple[Difference, list[int]] | None:
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run("SELECT epoch FROM cluster WHERE id = %s", (cluster,))
            if epoch is not None and rows and epoch < rows[0][0]:
                return None
            if report.error is not None:
                await session.run(
                    """UPDATE cluster SET contact_error = %s,
                           contact = CASE contact WHEN 'reported' THEN contact ELSE 'awaited' END WHERE id = %s""",
                    (report.error, cluster),
                )
                return Difference([], [], [], []), []
            change = await self._difference(session, cluster, report)
            touched = await _touched(session, cluster, change)
            if touched:
                await session.run("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", (touched,))
            await self._write(session, cluster, change)
            for subnet in touched:
                await rebuild_free_ranges(session, subnet)
            await session.run(
                """UPDATE cluster SET contact = 'reported', contact_at = now(), contact_error = NULL,
                       contact_remarks = %s WHERE id = %s""",
                (list(report.remarks), cluster),
            )
            return change, touched

        stored = await self._pool.transaction(apply, retry=True, deadline=LONG_DEADLINE_SECONDS)
        if stored is None:
            return []
        change, touched = stored
        self._tell(name, report, change)
        if change.pools_new:
            await self._tell_conflicts(cluster, name)
        return touched

    async def contact(self, cluster: int) -> ContactView:
        """What is known of it. Raises NotFound."""
        rows = await self._pool.query(
            """SELECT name, backend, contact, contact_at, contact_error, contact_remarks,
                      (SELECT count(*) FROM server_entry e WHERE e.cluster = c.id) FROM cluster c WHERE id = %s""",
            (cluster,),
            retry=True,
        )
        if not rows:
            raise errors.NotFound(f"there is no cluster {format_id(Prefix.CLUSTER, cluster)}")
        name, backend, contact, at, error, remarks, entries = rows[0]
        pools = tuple(_reported_pool(row) for row in await self._pool.query(_POOLS, (cluster,), retry=True))
        return ContactView(cluster, name, backend, Contact(contact), at, error, tuple(remarks), pools, entries)

    async def entries(
        self,
        cluster: int,
        *,
        subnet: int | None = None,
        only: Sequence[int] | None = None,
        limit: int = 1000,
        after: int | None = None,
    ) -> list[ForeignEntry]:
        """Static entries of one cluster's server, in order of id; of one subnet, or of these ids, where given."""
        ids = None if only is None else list(only)
        wanted = {"cluster": cluster, "subnet": subnet, "only": ids, "after": after or 0, "most": limit}
        rows = await self._pool.query(_ENTRIES, wanted, retry=True)
        return [_foreign_entry(row) for row in rows]

    async def _difference(self, session: Session, cluster: int, report: DhcpServerReport) -> Difference:
        pools = {
            ServerPool(low, high, source): number
            for number, low, high, source in await session.run(
                "SELECT id, host(low), host(high), source FROM server_pool WHERE cluster = %s", (cluster,)
            )
        }
        entries = {
            _entry(address, identifiers, hostname, source): number
            for number, address, identifiers, hostname, source in await session.run(
                "SELECT id, host(address), identifiers, hostname, source FROM server_entry WHERE cluster = %s",
                (cluster,),
            )
        }
        return difference(report, pools, entries)

    async def _write(self, session: Session, cluster: int, change: Difference) -> None:
        for table, gone in (("server_pool", change.pools_gone), ("server_entry", change.entries_gone)):
            if gone:
                await session.run(f"DELETE FROM {table} WHERE id = ANY(%s)", (list(gone),))  # noqa: S608 (constants)
        if pools := change.pools_new:
            await session.run(
                """INSERT INTO server_pool (id, cluster, low, high, source)
                   SELECT unnest(%s::bigint[]), %s, unnest(%s::inet[]), unnest(%s::inet[]), unnest(%s::text[])""",
                (
                    *([self._new_id() for _ in pools], cluster),
                    *([pool.low for pool in pools], [pool.high for pool in pools], [pool.source for pool in pools]),
                ),
            )
        if entries := change.entries_new:
            await session.run(
                """INSERT INTO server_entry (id, cluster, address, identifiers, hostname, source)
                   SELECT unnest(%s::bigint[]), %s, unnest(%s::inet[]), string_to_array(unnest(%s::text[]), ' '),
                          unnest(%s::text[]), unnest(%s::text[])""",
                (
                    *([self._new_id() for _ in entries], cluster, [entry.address for entry in entries]),
                    [" ".join(map(str, entry.identifiers)) for entry in entries],
                    *([entry.hostname for entry in entries], [entry.source for entry in entries]),
                ),
            )

    def _tell(self, name: str, report: DhcpServerReport, change: Difference) -> None:
        if report.error is not None:
            self._log.warn(
                "cluster {cluster} cannot read its DHCP server's configuration: {reason}",
                event="contact.unreadable",
                cluster=name,
                reason=report.error,
            )
        elif change:
            self._log.info(
                "cluster {cluster} reports {pools} pools and {entries} static entries of its DHCP server",
                event="contact.changed",
                cluster=name,
                pools=len(report.pools),
                entries=len(report.entries),
                pools_new=len(change.pools_new),
                pools_gone=len(change.pools_gone),
                entries_new=len(change.entries_new),
                entries_gone=len(change.entries_gone),
            )

    async def _tell_conflicts(self, cluster: int, name: str) -> None:
        for reported in (await self.contact(cluster)).pools:
            if reported.reservations:
                self._log.warn(
                    "the DHCP server of cluster {cluster} leases {low} to {high}, where {count} addresses are reserved",
                    event="contact.pool-over-reservations",
                    cluster=name,
                    low=reported.pool.low,
                    high=reported.pool.high,
                    cidr=reported.cidr,
                    count=reported.reservations,
                )


async def _touched(session: Session, cluster: int, change: Difference) -> list[int]:
    """The subnets that the cluster speaks for and in which something comes or goes, ascending."""
    if not change:
        return []
    spans = [_span(pool.low, pool.high) for pool in change.pools_new]
    spans += [_span(entry.address, entry.address) for entry in change.entries_new]
    for low, high in await session.run(
        """SELECT host(low), host(high) FROM server_pool WHERE id = ANY(%s)
           UNION ALL SELECT host(address), host(address) FROM server_entry WHERE id = ANY(%s)""",
        (list(change.pools_gone), list(change.entries_gone)),
    ):
        spans.append(_span(low, high))
    spans.sort()
    rows = await session.run(
        """SELECT s.id, s.cidr::text FROM delivery d JOIN subnet s ON s.id = d.subnet
           WHERE d.cluster = %s AND d.role IN ('serving', 'draining')""",
        (cluster,),
    )
    return sorted(number for number, cidr in rows if _concerns(spans, network(cidr)))


def _concerns(spans: Sequence[tuple[int, int, int]], net: Network) -> bool:
    return any(family == net.family and low <= net.last and net.first <= high for family, low, high in spans)


def _span(low: str, high: str) -> tuple[int, int, int]:
    family, first = address_to_int(low)
    return family, first, address_to_int(high)[1]


def _reported_pool(row: Row) -> ReportedPool:
    number, low, high, source, cidr, reservations = row
    return ReportedPool(number, ServerPool(low, high, source), cidr, reservations)


def _entry(address: str, identifiers: Sequence[str], hostname: str | None, source: str) -> ServerEntry:
    return ServerEntry(address, tuple(map(_identifier, identifiers)), hostname, source)


def _identifier(text: str) -> Identifier:
    kind, _, octets = text.partition(":")
    return Identifier(IdentifierKind(kind), parse_hex(octets))


def _foreign_entry(row: Row) -> ForeignEntry:
    held: Any
    number, cluster, name, backend, address, identifiers, hostname, source, subnet, cidr, usable = row[:11]
    in_pool, infrastructure, held, others, same_client, same_address = row[11:]
    return ForeignEntry(
        id=number,
        cluster=cluster,
        cluster_name=name,
        backend=backend,
        entry=_entry(address, identifiers, hostname, source),
        subnet=subnet,
        cidr=cidr,
        usable=usable,
        in_pool=in_pool,
        infrastructure=infrastructure,
        holder=None if held is None else read_reservation(held),
        others=tuple(others),
        same_client=same_client,
        same_address=same_address,
    )
