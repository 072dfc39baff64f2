"""The third way: files that the server's configuration file includes, tested by the server, then loaded by it.

Loading stops DHCP for a moment that grows with the number of reservations (0.3 s at 10,000), hence a limit and a pause
between loads. A configuration that Kea refuses while it loads leaves it answering nobody: so nothing is loaded that it
has not tested, and what it refuses all the same is taken back. The running configuration is never written out
(`config-write` would replace the includes by what they held).

The operator includes each subnet's file as the value of its reservations; see clusterd/dhcp/README.md.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from twisted.logger import Logger

from clusterd.dhcp.apparmor import why_confined
from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.host_system import replace_file, writing_obstacles
from clusterd.dhcp.kea.config_file import ConfigFile, ConfigFileError, read_config_file
from clusterd.dhcp.kea.configuration import Configuration
from clusterd.dhcp.kea.control_socket import DONE, KeaRefused
from clusterd.dhcp.kea.entries import after, rows_of, without
from clusterd.dhcp.kea.include_text import EMPTY, OWNER_MARK, file_name, is_empty, render
from clusterd.dhcp.kea.rows import Placed, Row, RowChanges, plan_rows
from clusterd.dhcp.kea.server import CONFIG_TIMEOUT_SECONDS, KeaServer
from clusterd.dhcp.kea.settings import Way
from clusterd.dhcp.pacing import Pause, sit_out
from clusterd.protocol.values import HostMap

MAX_HOST_MAPS = 20_000
SHORTEST_PAUSE_SECONDS = 0.25
PAUSE_PER_LOAD = 4.0  # the server is deaf for at most a fifth of the time, whatever the rate of changes
MAX_TESTS = 200

T = TypeVar("T")

Texts = Mapping[Path, str]


class IncludeFilesStore:
    """The files of one server."""

    way = Way.INCLUDE_FILES
    max_host_maps = MAX_HOST_MAPS
    _log = Logger()

    def __init__(self, server: KeaServer, directory: Path, config_file: Path) -> None:
        self._server = server
        self._directory = directory
        self._config_file = config_file
        self._pause = Pause(SHORTEST_PAUSE_SECONDS, PAUSE_PER_LOAD)

    def path_of(self, cidr: str) -> Path:
        """The file of a subnet."""
        return self._directory / file_name(self._server.family, cidr)

    # ---- ReservationStore ----

    async def check(self, configuration: Configuration) -> list[str]:
        paths = {subnet.cidr: self.path_of(subnet.cidr) for subnet in configuration.subnets}
        obstacles = {obstacle: None for path in paths.values() for obstacle in writing_obstacles(path)}
        if obstacles:
            return list(obstacles)
        try:
            config = await self._read_config({})
        except BackendError as error:
            return [f"{error}."]
        missing = {cidr: path for cidr, path in paths.items() if str(path) not in config.included}
        obstacles = {f"{self._not_included(cidr)}.": None for cidr in missing}
        confined = await self._server.run_in_thread(
            lambda: next(filter(None, (why_confined(self._server.name, path) for path in paths.values())), None)
        )
        return [*obstacles, *([] if confined is None else [confined])]

    async def read(self, configuration: Configuration) -> frozenset[HostMap]:
        """What the server runs with. Files that say otherwise are put right: they are what its next start loads."""
        rows, held = await self._server.run_in_thread(lambda: _running(configuration))
        right = {self.path_of(s.cidr): render(held.get(s.id, ())) for s in configuration.subnets}
        found = await self._in_thread("cannot read", lambda: {path: _text_of(path) for path in right})
        wrong = {path: text for path, text in right.items() if found[path] != text}
        edited = {path for path in wrong if not is_empty(found[path] or "")}
        for path in edited:
            self._refuse_others(path, found[path] or "")
            self._log.warn(
                "{path} is not what Kea runs with; it is put right", event="kea.include-edited", path=str(path)
            )
        strangers = {row.subnet_id for row in rows if not row.ours}
        if any(s.id in strangers and self.path_of(s.cidr) in edited for s in configuration.subnets):
            await self._install(wrong, right)  # the server has loaded what was edited
        elif wrong:
            await self._write(wrong)
        await self._keep_good(right)
        return frozenset(host_map for held_there in held.values() for host_map in held_there)

    async def apply(
        self, configuration: Configuration, removed: Collection[Placed], added: Collection[Placed]
    ) -> tuple[Rejection, ...]:
        return await self._change(configuration, removed, added)

    def pause(self) -> float:
        return self._pause.left(self._server.clock.seconds())

    async def replace(self, configuration: Configuration, host_maps: Collection[Placed]) -> tuple[Rejection, ...]:
        return await self._change(configuration, None, host_maps)

    async def verify(self, configuration: Configuration, host_maps: Collection[Placed]) -> frozenset[HostMap]:
        _, held = await self._server.run_in_thread(lambda: _running(configuration))
        return frozenset(host_map for host_map, subnet_id in host_maps if host_map in held.get(subnet_id, ()))

    async def close(self) -> None:
        """Nothing is held open."""

    # ---- what the backend calls beside ----

    async def restore_last_good(self) -> None:
        """While the server is away: give its files what it last ran with, in case they are why it does not start."""

        def restore() -> list[Path]:
            pattern = f".{file_name(self._server.family, '')}".removesuffix(".json") + "*.json.good"
            restored = []
            for good in self._directory.glob(pattern):
                path = self._directory / good.name.removeprefix(".").removesuffix(".good")
                text = good.read_text()
                if _text_of(path) != text:
                    replace_file(path, text.encode())
                    restored.append(path)
            return restored

        for path in await self._in_thread("cannot restore", restore):
            self._log.warn(
                "{path} is not what Kea ran with; it is put right", event="kea.include-edited", path=str(path)
            )

    async def retire(self, configuration: Configuration) -> None:
        """Another way is used now: see to it that the files serve nothing any more."""
        _, held = await self._server.run_in_thread(lambda: _running(configuration))
        before = {path: text for path, text in self._texts(configuration, held).items() if path.exists()}
        await self._install(dict.fromkeys(before, EMPTY), before)

    # ---- changing ----

    async def _change(
        self, configuration: Configuration, removed: Collection[Placed] | None, added: Collection[Placed]
    ) -> tuple[Rejection, ...]:
        def plan() -> tuple[list[Row], dict[int, set[HostMap]], RowChanges]:
            rows, held = _running(configuration)
            gone = removed
            if gone is None:
                wanted = {host_map for host_map, _ in added}
                gone = [(old, subnet) for subnet, olds in held.items() for old in olds if old not in wanted]
            return rows, held, plan_rows(rows, gone, added, unique_addresses=configuration.unique_addresses)

        rows, held, changes = await self._server.run_in_thread(plan)
        if not changes:
            return tuple(changes.rejections)
        before = self._texts(configuration, held)
        count = sum(map(len, held.values())) - len(changes.deletes) + len(changes.inserts)
        if count > MAX_HOST_MAPS:
            raise BackendError(f"{count} host maps are more than the {MAX_HOST_MAPS} that Kea can load in time")
        config = await self._read_config(before)
        changes = self._without_unincluded(configuration, config, rows, changes)
        changes = await self._acceptable(configuration, rows, changes)
        wanted = self._texts(configuration, after(rows, changes))
        new = {path: text for path, text in wanted.items() if text != before[path]}
        if new:
            there = await self._in_thread("cannot read", lambda: {path: _text_of(path) for path in new})
            for path, text in there.items():
                self._refuse_others(path, text or "")
            await sit_out(self._pause, self._server.clock)
            try:
                await self._write(new)
                await self._load(before)
            except BackendError:
                await self._write(before)
                raise
            await self._keep_good(wanted)
        return tuple(changes.rejections)

    def _texts(self, configuration: Configuration, held: Mapping[int, Collection[HostMap]]) -> dict[Path, str]:
        return {self.path_of(subnet.cidr): render(held.get(subnet.id, ())) for subnet in configuration.subnets}

    def _without_unincluded(
        self, configuration: Configuration, config: ConfigFile, rows: list[Row], changes: RowChanges
    ) -> RowChanges:
        """The changes without those in subnets whose files the server would not read, which are rejected."""
        missing = {s.id: s.cidr for s in configuration.subnets if str(self.path_of(s.cidr)) not in config.included}
        refused = [one for one in changes.inserts if one[1] in missing]
        staying = [row for row in rows if row.host_id in changes.deletes and row.subnet_id in missing]
        stuck = [(host_map, row.subnet_id) for row in staying if (host_map := row.host_map()) is not None]
        changes.rejections += [Rejection(one[0], self._not_included(missing[one[1]])) for one in [*refused, *stuck]]
        changes.deletes -= {row.host_id for row in staying}
        return without(changes, refused) if refused else changes

    def _not_included(self, cidr: str) -> str:
        path = self.path_of(cidr)
        return (
            f"{self._config_file} does not include clusterd's file for {cidr}: write there, in that subnet, "
            f'"reservations": <?include "{path}"?>'
        )

    async def _acceptable(self, configuration: Configuration, rows: list[Row], changes: RowChanges) -> RowChanges:
        """The changes without the insertions that the server refuses, which are rejected in its own words."""
        tests = 0

        async def refusal(inserts: list[Placed]) -> str | None:
            nonlocal tests
            tests += 1
            trial = RowChanges(changes.deletes, inserts, [])
            return await self._test(self._texts(configuration, after(rows, trial)))

        words = await refusal(changes.inserts)
        if words is None:
            return changes
        if not changes.inserts or (unchanged := await refusal([])) is not None:
            raise BackendError(f"{self._server.name} refuses {self._config_file} as it stands: {unchanged or words}")
        accepted: list[Placed] = []
        waiting = [changes.inserts]
        refused: list[Placed] = []
        while waiting:
            group = waiting.pop()
            words = await refusal([*accepted, *group])
            if words is None:
                accepted += group
            elif len(group) == 1:
                refused += group
                changes.rejections.append(Rejection(group[0][0], f"{self._server.name}: {words}"))
            elif tests > MAX_TESTS:
                raise BackendError(f"{self._server.name} refuses many host maps, at last: {words}")
            else:
                middle = len(group) // 2
                waiting += [group[middle:], group[:middle]]
        return without(changes, refused)

    async def _test(self, texts: Texts) -> str | None:
        """The server's words against its configuration with these texts in the files, or None."""
        config = await self._read_config(texts)
        reply = await self._server.control.ask("config-test", config.document, timeout=CONFIG_TIMEOUT_SECONDS)
        return None if reply.result == DONE else reply.text

    async def _read_config(self, texts: Texts) -> ConfigFile:
        """The configuration file with everything it includes, our files with these texts. Raises BackendError."""
        overlay = {str(path): text for path, text in texts.items()}

        def read(path: str) -> str:
            return overlay[path] if path in overlay else Path(path).read_text()

        try:
            config = await self._server.run_in_thread(lambda: read_config_file(str(self._config_file), read))
        except ConfigFileError as error:
            raise BackendError(str(error)) from error
        name = f"Dhcp{self._server.family}"
        if name not in config.document:
            raise BackendError(f"{self._config_file} is not the configuration of {self._server.name}: no {name} in it")
        return ConfigFile({name: config.document[name]}, config.included)

    async def _install(self, texts: Texts, fall_back: Texts) -> None:
        """Write files and have them loaded, unless the server's own test is against it."""
        words = await self._test(texts)
        if words is not None:
            raise BackendError(f"{self._server.name} refuses {self._config_file} as it stands: {words}")
        await self._write(texts)
        await self._load(fall_back)

    async def _load(self, fall_back: Texts) -> None:
        """Have the server load its file. When it refuses, take everything back and raise its words."""
        known = await self._server.running()
        began = self._server.clock.seconds()
        try:
            await self._server.control.order("config-reload", timeout=CONFIG_TIMEOUT_SECONDS)
        except KeaRefused as refused:
            self._log.warn(
                "{server} refused to load what it had found right: {reason}; it gets back what it had",
                event="kea.reload-refused",
                server=self._server.name,
                reason=refused.text,
            )
            await self._write(fall_back)
            again = await self._server.control.ask("config-reload", timeout=CONFIG_TIMEOUT_SECONDS)
            if again.result != DONE:  # the file itself was changed since the test: back to what ran, from memory
                document = {key: value for key, value in known.document.items() if key != "hash"}
                await self._server.control.order("config-set", document, timeout=CONFIG_TIMEOUT_SECONDS)
            raise
        seconds = self._server.clock.seconds() - began
        self._pause = self._pause.after(self._server.clock.seconds(), seconds)
        self._log.debug(
            "{server} has loaded its configuration in {seconds} s",
            event="kea.reloaded",
            server=self._server.name,
            seconds=round(seconds, 4),
        )
        await self._server.fetch()

    # ---- files ----

    async def _write(self, texts: Texts) -> None:
        def write() -> None:
            for path, text in texts.items():
                replace_file(path, text.encode("ascii"))

        await self._in_thread("cannot write below", write)

    async def _keep_good(self, texts: Texts) -> None:
        """Keep a copy of what the server runs with, for a time when it does not."""
        copies = {path.with_name(f".{path.name}.good"): text for path, text in texts.items()}

        def keep() -> None:
            for path, text in copies.items():
                if _text_of(path) != text:
                    replace_file(path, text.encode("ascii"))

        await self._in_thread("cannot write below", keep)

    def _refuse_others(self, path: Path, text: str) -> None:
        if OWNER_MARK not in text and not is_empty(text):
            raise BackendError(
                f"{path} was not written by clusterd and is left alone: move it away or name another include_directory"
            )

    async def _in_thread(self, trouble: str, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise BackendError(f"{trouble} {self._directory}: {reason}") from error

        return await self._server.run_in_thread(guarded)


def _running(configuration: Configuration) -> tuple[list[Row], dict[int, set[HostMap]]]:
    """The reservations that the server runs with, as rows, and ours of them as host maps per subnet id."""
    pairs = ((subnet.id, entry) for subnet in configuration.subnets for entry in subnet.entries)
    rows = list(rows_of(pairs))
    return rows, after(rows, RowChanges())


def _text_of(path: Path) -> str | None:
    """The text of a file, None when it is not there. Raises OSError."""
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
