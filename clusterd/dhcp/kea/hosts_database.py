"""The first way: rows in the hosts database that the server's configuration names, in effect with the next packet."""

from collections.abc import Collection

from psycopg2 import extensions
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.kea.configuration import Configuration
from clusterd.dhcp.kea.database import Database
from clusterd.dhcp.kea.hosts_table import HostsTable
from clusterd.dhcp.kea.rows import Placed, Row, RowChanges, plan_rows
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.addresses import Family
from clusterd.protocol.values import HostMap

MAX_HOST_MAPS = 100_000
_FEW = 1_000  # from here on, everything is read instead of asked for one by one


class HostsDatabaseStore:
    """The rows of one server, in its subnets. Rows of ours in a wrong subnet are deleted when they are seen."""

    way = Way.HOSTS_DATABASE
    max_host_maps = MAX_HOST_MAPS
    _log = Logger()

    def __init__(self, family: Family, database: Database) -> None:
        self._family = family
        self._database = database
        self._table = HostsTable(family)

    async def check(self, configuration: Configuration) -> list[str]:
        try:
            await self._database.transact(self._table.try_out, keep=False)
        except BackendError as error:
            return [
                f"{error}. clusterd needs SELECT, INSERT, UPDATE and DELETE on hosts and ipv6_reservations, and "
                "the use of their sequences."
            ]
        return []

    async def read(self, configuration: Configuration) -> frozenset[HostMap]:
        return await self._read(configuration, None)

    async def _read(self, configuration: Configuration, among: Collection[Placed] | None) -> frozenset[HostMap]:
        """All of ours, or those among these."""

        def work(cursor: extensions.cursor) -> tuple[frozenset[HostMap], list[Row]]:
            found: set[HostMap] = set()
            wrong = []
            for row in self._table.rows_in(cursor, _ids(configuration), ours_only=True):
                host_map = _right(configuration, row)
                if host_map is None:
                    wrong.append(row)
                else:
                    found.add(host_map)
            if wrong:
                self._table.delete(cursor, {row.host_id for row in wrong})
            if among is not None:
                found.intersection_update(host_map for host_map, _ in among)
            return frozenset(found), wrong

        found, wrong = await self._database.transact(work)
        for row in wrong[:100]:
            self._log.warn(
                "a row of hostmap's in Kea's hosts table was in the wrong subnet, and is deleted: {address}, {holder}",
                event="kea.misplaced-row",
                server=f"kea-dhcp{self._family}",
                address=row.address,
                holder=row.holder,
                subnet_id=row.subnet_id,
                count=len(wrong),
            )
        return found

    async def apply(
        self, configuration: Configuration, removed: Collection[Placed], added: Collection[Placed]
    ) -> tuple[Rejection, ...]:
        if len(removed) + len(added) > _FEW:
            return await self._change_all(configuration, removed, added)

        def work(cursor: extensions.cursor) -> RowChanges:
            self._table.lock(cursor)
            self._table.expect_few(cursor)
            existing = self._table.rows_touched_by(cursor, [*removed, *added]).values()
            return self._make(cursor, configuration, existing, removed, added)

        return tuple((await self._database.transact(work)).rejections)

    def pause(self) -> float:
        return 0.0

    async def replace(self, configuration: Configuration, host_maps: Collection[Placed]) -> tuple[Rejection, ...]:
        return await self._change_all(configuration, None, host_maps)

    async def _change_all(
        self, configuration: Configuration, removed: Collection[Placed] | None, added: Collection[Placed]
    ) -> tuple[Rejection, ...]:
        """As `apply`; with None for `removed`, what is not added is removed."""

        def work(cursor: extensions.cursor) -> RowChanges:
            self._table.lock(cursor)
            existing = list(self._table.rows_in(cursor, _ids(configuration), ours_only=False))
            gone = removed
            if gone is None:
                wanted = {host_map for host_map, _ in added}
                ours = ((row.host_map(), row.subnet_id) for row in existing if row.ours)
                gone = [(found, subnet_id) for found, subnet_id in ours if found is not None and found not in wanted]
            return self._make(cursor, configuration, existing, gone, added)

        return tuple((await self._database.transact(work)).rejections)

    def _make(
        self,
        cursor: extensions.cursor,
        configuration: Configuration,
        existing: Collection[Row],
        removed: Collection[Placed],
        added: Collection[Placed],
    ) -> RowChanges:
        changes = plan_rows(existing, removed, added, unique_addresses=configuration.unique_addresses)
        self._table.delete(cursor, changes.deletes)
        self._table.insert(cursor, changes.inserts)
        return changes

    async def verify(self, configuration: Configuration, host_maps: Collection[Placed]) -> frozenset[HostMap]:
        if len(host_maps) > _FEW:
            return await self._read(configuration, host_maps)
        wanted = {host_map for host_map, _ in host_maps}

        def work(cursor: extensions.cursor) -> frozenset[HostMap]:
            self._table.expect_few(cursor)
            rows = self._table.rows_with_identifiers(cursor, host_maps)
            found = (_right(configuration, row) for row in rows if row.ours)
            return frozenset(host_map for host_map in found if host_map is not None and host_map in wanted)

        return await self._database.transact(work)

    async def close(self) -> None:
        await self._database.close()


def _ids(configuration: Configuration) -> list[int]:
    return [subnet.id for subnet in configuration.subnets]


def _right(configuration: Configuration, row: Row) -> HostMap | None:
    """The host map of a row, when the row is in the subnet where that belongs."""
    host_map = row.host_map()
    if host_map is None:
        return None
    subnet = configuration.subnet_of(host_map.address)
    return host_map if subnet is not None and subnet.id == row.subnet_id else None
