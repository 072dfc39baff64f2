"""The backend `file`: the host maps in one sorted file, replaced whenever they change; no server.

For sites whose DHCP server is fed by other means. The syntax is that of dnsmasq's hosts files, and the host maps
that it cannot express are rejected (see `clusterd.dhcp.host_lines`).
"""

from collections.abc import Callable, Collection
from pathlib import Path
from threading import Lock
from typing import TypeVar

from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Capabilities, NoLeases, Rejection
from clusterd.dhcp.host_lines import HostLines, ParsedLines, parse
from clusterd.dhcp.host_system import FileVersion, RunInThread, replace_file, run_at_once, writing_obstacles
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol.addresses import Family
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, IdentifierKind

MAX_HOST_MAPS = 100_000
NO_SERVER = "the backend `file` knows of no DHCP server, and so of no leases"
_log = Logger()

T = TypeVar("T")


class FileBackend:
    """Keeps `path` equal to the host maps it is given.

    What the file holds is remembered between calls, so that a change costs the writing and no parsing; a file that
    somebody else touched is read again first.
    """

    name = "file"

    def __init__(
        self, path: Path, *, run_in_thread: RunInThread = run_at_once, max_host_maps: int = MAX_HOST_MAPS
    ) -> None:
        self.path = path
        self.capabilities = Capabilities(frozenset({4, 6}), frozenset(IdentifierKind), max_host_maps)
        self._run_in_thread = run_in_thread
        self._one_at_a_time = Lock()
        self._lines: HostLines | None = None
        self._version: FileVersion | None = None

    async def check(self) -> list[str]:
        """What is missing before the file can be kept, one sentence each."""
        return await self._run_in_thread(self._check)

    async def read(self) -> frozenset[HostMap]:
        """What the file says now, whoever wrote it last; empty when there is none. Raises BackendError.

        Lines that are no host maps do not survive this: an edit by hand is undone, not kept beside ours.
        """
        return await self._in_thread(f"cannot read {self.path}", lambda: self._read().host_maps)

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Rewrite the file without `removed` and with `added`; left alone when nothing changes. Raises BackendError."""
        return await self._in_thread(f"cannot write {self.path}", lambda: self._change(removed, added))

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Make the file say exactly this, whatever it said before. Raises BackendError."""
        return await self._in_thread(f"cannot write {self.path}", lambda: self._replace(host_maps))

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        """None: whoever reads the file chooses when."""
        return 0.0

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """Which of these the file has now; parsed again only if somebody touched it. Raises BackendError."""

        def present() -> frozenset[HostMap]:
            lines = self._current()
            return frozenset(host_map for host_map in host_maps if host_map in lines)

        return await self._in_thread(f"cannot read {self.path}", present)

    async def release(self, removed: Collection[HostMap]) -> None:
        """Nothing to do: there is no server, so there are no leases."""

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """Raises NoLeases."""
        raise NoLeases(NO_SERVER)

    async def end_lease(self, lease: ServerLease) -> None:
        """Raises NoLeases."""
        raise NoLeases(NO_SERVER)

    def would_be_new(self, added: Collection[HostMap]) -> bool:
        """Whether each of these would get a line of its own beside those that the last call left in the file."""
        lines = self._lines  # looked at once: the thread that works with the file may take it away meanwhile
        return lines is not None and all(lines.is_new(host_map) for host_map in added)

    async def lines_of_new(self, added: Collection[HostMap]) -> list[str]:
        """The lines that adding these would put beside the file's, none that it would change. Raises BackendError."""
        ordered = sorted(added, key=_file_order)
        return await self._in_thread(f"cannot read {self.path}", lambda: self._current().lines_of_new(ordered))

    async def at(self, addresses: Collection[str]) -> dict[str, list[HostMap]]:
        """The host maps that the file has with each of these addresses. Raises BackendError."""

        def found() -> dict[str, list[HostMap]]:
            lines = self._current()
            return {address: lines.at(address) for address in addresses}

        return await self._in_thread(f"cannot read {self.path}", found)

    async def parsed(self) -> frozenset[HostMap]:
        """What the file says, left as it is. Raises BackendError."""
        return await self._in_thread(f"cannot read {self.path}", lambda: self._parse()[0].host_maps)

    async def close(self) -> None:
        """Nothing to give back."""

    async def version(self) -> FileVersion | None:
        """Which content the file has now, None when there is none. Raises BackendError."""
        return await self._in_thread(f"cannot read {self.path}", lambda: FileVersion.of(self.path))

    def count(self, family: Family) -> int:
        """How many host maps of a family the last call left in the file."""
        return 0 if self._lines is None else self._lines.count(family)

    async def _in_thread(self, trouble: str, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with self._one_at_a_time:
                try:
                    return work()
                except OSError as error:
                    self._lines = None
                    raise BackendError(f"{trouble}: {error.strerror or error}") from error

        return await self._run_in_thread(guarded)

    def _check(self) -> list[str]:
        obstacles = writing_obstacles(self.path)
        if obstacles:
            return obstacles
        try:
            self._parse()
        except OSError as error:
            return [f"{self.path} cannot be read: {error.strerror or error}."]
        except BackendError as error:
            return [f"{error}."]
        return []

    def _read(self) -> HostLines:
        """The file's lines. One that does not read as we would have written it is first brought back to that."""
        self._lines = None
        self._version = FileVersion.of(self.path)
        parsed, text = self._parse()
        for line in parsed.unreadable:
            _log.warn(
                "{path} line {line} is no host map: {reason}",
                event="hosts-file.unreadable-line",
                path=str(self.path),
                line=line.number,
                text=line.text[:200],
                reason=line.reason,
            )
        lines = HostLines(sorted(parsed.host_maps, key=_file_order))
        if self._version is not None and lines.render() != text:
            if text:  # an empty file is what somebody made for us to fill
                _log.warn("{path} was edited; its form is put right", event="hosts-file.edited", path=str(self.path))
            self._write(lines)
        self._lines = lines
        return lines

    def _current(self) -> HostLines:
        """The lines as of now: those of the last call, unless somebody else touched the file."""
        if self._lines is None or self._version != FileVersion.of(self.path):
            return self._read()
        return self._lines

    def _parse(self) -> tuple[ParsedLines, str]:
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        parsed = parse(text)
        if not parsed.ours:
            raise BackendError(
                f"{self.path} was not written by clusterd and is left alone: move it away or name another path"
            )
        return parsed, text

    def _change(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        lines = self._current()
        edits_before = lines.edits
        for host_map in removed:
            lines.remove(host_map)
        rejections = self._add(lines, added)
        if lines.edits != edits_before or self._version is None:
            self._write(lines)
        self._lines = lines
        return rejections

    def _replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        self._parse()
        lines = HostLines()
        rejections = self._add(lines, host_maps)
        self._write(lines)
        return rejections

    def _add(self, lines: HostLines, added: Collection[HostMap]) -> tuple[Rejection, ...]:
        self._lines = None  # until the file says the same
        reasons = ((host_map, lines.add(host_map)) for host_map in sorted(added, key=_file_order))
        rejections = tuple(Rejection(host_map, reason) for host_map, reason in reasons if reason is not None)
        limit = self.capabilities.max_host_maps
        if len(lines) > limit:
            raise BackendError(f"{len(lines)} host maps are more than the {limit} that this backend takes")
        return rejections

    def _write(self, lines: HostLines) -> None:
        self._version = replace_file(self.path, lines.render().encode("ascii"))
        self._lines = lines


def _file_order(host_map: HostMap) -> tuple[str, bytes]:
    """Cheaper than comparing whole host maps; the same set gets the same rejections whatever its order."""
    return host_map.address, host_map.identifier.value
