"""The second way: the commands of the hook host_cmds (open source since Kea 3.0), in effect with their answers.

Where the server has a hosts database (MySQL, say) they change that; where it has none, its memory, and what a restart
of the server forgets is put back by the next comparison.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.kea.configuration import Configuration
from clusterd.dhcp.kea.control_socket import DONE, NOTHING_FOUND, ControlSocket, KeaRefused
from clusterd.dhcp.kea.entries import after, rows_of
from clusterd.dhcp.kea.reservations import IDENTIFIER_NAMES, reservation
from clusterd.dhcp.kea.rows import KIND_OF_TYPE, Placed, Row, RowChanges, plan_rows
from clusterd.dhcp.kea.server import KeaServer
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.values import HostMap

MAX_HOST_MAPS = 100_000
NEEDED = frozenset({"reservation-add", "reservation-del", "reservation-get", "reservation-get-page"})
_BY_ADDRESS = "reservation-get-by-address"
_UPDATE = "reservation-update"
_PAGE = 1_000
MAX_RESERVATIONS = 1_000_000
_FEW = 200  # from here on, everything is read instead of asked for one by one
_NAMES_OF_MEMORY = ("memory", "primary")  # the word for it changed between Kea's versions


async def memory_target(server: KeaServer) -> str | None:
    """The word with which this server's commands are sent to its memory, None when they cannot be."""
    for name in _NAMES_OF_MEMORY:
        # 192.0.2.0/24 and 2001:db8::/32 are for documentation; that nothing is found there is an answer too.
        probe = {"subnet-id": 0, "ip-address": "192.0.2.1" if server.family == 4 else "2001:db8::1"}
        reply = await server.control.ask("reservation-get", {**probe, "operation-target": name})
        if reply.result in (DONE, NOTHING_FOUND):
            return name
    return None


async def all_reservations(control: ControlSocket) -> list[Mapping[str, Any]]:
    """Every reservation that the server has, of its configuration, its memory and its hosts databases alike.

    Each says its subnet in `subnet-id`. Raises BackendError.
    """
    entries: list[Mapping[str, Any]] = []
    arguments: dict[str, Any] = {"limit": _PAGE}
    while len(entries) <= MAX_RESERVATIONS:
        page = await _page(control, arguments)
        hosts = page.get("hosts", [])
        entries += hosts
        following = page.get("next")
        if not hosts or not isinstance(following, Mapping):
            return entries
        arguments = {"limit": _PAGE, "source-index": following["source-index"], "from": following["from"]}
    raise BackendError(f"{control.server} lists more than {MAX_RESERVATIONS} reservations")


async def _page(control: ControlSocket, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    reply = await control.ask("reservation-get-page", arguments)
    if reply.result not in (DONE, NOTHING_FOUND):
        raise KeaRefused(control.server, "reservation-get-page", reply.text)
    return reply.arguments if isinstance(reply.arguments, Mapping) else {}


class ReservationCommandsStore:
    """The reservations of one server. `target` is its word for its memory, None for its hosts database."""

    way = Way.RESERVATION_COMMANDS
    max_host_maps = MAX_HOST_MAPS
    _log = Logger()

    def __init__(self, server: KeaServer, commands: frozenset[str], target: str | None) -> None:
        self._server = server
        self._commands = commands
        self._target = {} if target is None else {"operation-target": target}

    async def check(self, configuration: Configuration) -> list[str]:
        try:
            await _page(self._server.control, {"limit": 1})
        except BackendError as error:
            return [f"{error}."]
        return []

    async def read(self, configuration: Configuration) -> frozenset[HostMap]:
        rows = await self._all_rows()
        held: set[HostMap] = set()
        for row in rows:
            if not row.ours:
                continue
            host_map = row.host_map()
            subnet = None if host_map is None else configuration.subnet_of(host_map.address)
            if host_map is not None and subnet is not None and subnet.id == row.subnet_id:
                held.add(host_map)
            elif any(subnet.id == row.subnet_id for subnet in configuration.subnets):
                await self._delete(row)
        return frozenset(held)

    async def apply(
        self, configuration: Configuration, removed: Collection[Placed], added: Collection[Placed]
    ) -> tuple[Rejection, ...]:
        placed = [*removed, *added]
        existing = await (self._all_rows() if len(placed) > _FEW else self._rows_touched_by(placed))
        plan = plan_rows(existing, removed, added, unique_addresses=configuration.unique_addresses)
        return await self._carry_out(existing, plan)

    def pause(self) -> float:
        return 0.0

    async def replace(self, configuration: Configuration, host_maps: Collection[Placed]) -> tuple[Rejection, ...]:
        existing = await self._all_rows()
        wanted = {host_map for host_map, _ in host_maps}
        held = after(existing, RowChanges())
        ids = {subnet.id for subnet in configuration.subnets}
        gone = [(old, subnet) for subnet, olds in held.items() if subnet in ids for old in olds if old not in wanted]
        plan = plan_rows(existing, gone, host_maps, unique_addresses=configuration.unique_addresses)
        return await self._carry_out(existing, plan)

    async def verify(self, configuration: Configuration, host_maps: Collection[Placed]) -> frozenset[HostMap]:
        if len(host_maps) > _FEW:
            return await self.read(configuration) & {host_map for host_map, _ in host_maps}
        found = set()
        for host_map, subnet_id in host_maps:
            entry = await self._by_identifier(host_map, subnet_id)
            if entry is not None and any(r.ours and r.host_map() == host_map for r in rows_of([(subnet_id, entry)])):
                found.add(host_map)
        return frozenset(found)

    async def close(self) -> None:
        """Nothing is held open."""

    # ---- asking ----

    async def _all_rows(self) -> list[Row]:
        entries = await all_reservations(self._server.control)
        return await self._server.run_in_thread(
            lambda: list(rows_of((int(entry.get("subnet-id", 0)), entry) for entry in entries))
        )

    async def _rows_touched_by(self, placed: Iterable[Placed]) -> list[Row]:
        found: dict[str, tuple[int, Mapping[str, Any]]] = {}
        for host_map, subnet_id in placed:
            entries = [await self._by_identifier(host_map, subnet_id), *await self._by_address(host_map, subnet_id)]
            found.update({f"{subnet_id} {entry}": (subnet_id, entry) for entry in entries if entry is not None})
        return list(rows_of(found.values()))

    async def _by_identifier(self, host_map: HostMap, subnet_id: int) -> Mapping[str, Any] | None:
        found = await self._get("reservation-get", {"subnet-id": subnet_id, **_identifier(host_map)})
        return found[0] if found else None

    async def _by_address(self, host_map: HostMap, subnet_id: int) -> list[Mapping[str, Any]]:
        name = _BY_ADDRESS if _BY_ADDRESS in self._commands else "reservation-get"
        return await self._get(name, {"subnet-id": subnet_id, "ip-address": host_map.address})

    async def _get(self, command: str, arguments: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What a query finds, in whatever is served: what others put into the configuration file counts too."""
        reply = await self._server.control.ask(command, arguments)
        if reply.result not in (DONE, NOTHING_FOUND):
            raise KeaRefused(self._server.name, command, reply.text)
        if not isinstance(reply.arguments, Mapping):
            return []
        hosts = reply.arguments.get("hosts")
        return list(hosts) if isinstance(hosts, list) else [reply.arguments]

    # ---- changing ----

    async def _carry_out(self, existing: Iterable[Row], plan: RowChanges) -> tuple[Rejection, ...]:
        rejections = list(plan.rejections)
        doomed = {row.key: row for row in existing if row.host_id in plan.deletes}
        moved = {one: row for one in plan.inserts if (row := doomed.get(_key(one))) is not None}
        replaced = moved if _UPDATE in self._commands else {}
        kept = {row.key for row in replaced.values()}
        for row in doomed.values():
            if row.key not in kept:
                words = await self._delete(row)
                host_map = row.host_map()
                if words is not None and host_map is not None:
                    rejections.append(Rejection(host_map, words))
        for one in plan.inserts:
            words = await self._put(_UPDATE if one in replaced else "reservation-add", one)
            if words is not None:
                rejections.append(Rejection(one[0], words))
        return tuple(rejections)

    async def _put(self, command: str, placed: Placed) -> str | None:
        host_map, subnet_id = placed
        entry = {"subnet-id": subnet_id, **reservation(host_map)}
        reply = await self._server.control.ask(command, {"reservation": entry, **self._target})
        return None if reply.result == DONE else f"{self._server.name}: {reply.text}"

    async def _delete(self, row: Row) -> str | None:
        """Delete one of ours; the server's words when it does not, None when it is gone."""
        kind = KIND_OF_TYPE[row.type]
        arguments = {
            "subnet-id": row.subnet_id,
            "identifier-type": IDENTIFIER_NAMES[kind],
            "identifier": row.value.hex(":"),
            **self._target,
        }
        reply = await self._server.control.ask("reservation-del", arguments)
        # Earlier versions answer "not found" as a refusal like others: whether it is gone, asking tells.
        if reply.result in (DONE, NOTHING_FOUND):
            return None
        host_map = row.host_map()
        if host_map is not None and await self._by_identifier(host_map, row.subnet_id) is None:
            return None
        return f"{self._server.name}: {reply.text}"


def _identifier(host_map: HostMap) -> dict[str, str]:
    identifier = host_map.identifier
    return {"identifier-type": IDENTIFIER_NAMES[identifier.kind], "identifier": identifier.text}


def _key(placed: Placed) -> tuple[int, int, bytes]:
    host_map, subnet_id = placed
    kinds = {kind: number for number, kind in KIND_OF_TYPE.items()}
    return subnet_id, kinds[host_map.identifier.kind], host_map.identifier.value
