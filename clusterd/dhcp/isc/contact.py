"""First contact with ISC dhcpd: its configuration with everything that it includes, and hosts in its leases file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from clusterd.dhcp.first_contact import MAX_FILES, ServerPicture, Unreadable, read_text
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.isc.findings import Findings, Malformed, Statement, parse


class DhcpdReader:
    """Reads the files of the dhcpds of this host (one per address family); one that does not exist is none.

    At least one configuration has to exist. `ours` are files that clusterd writes itself and that a configuration
    includes; `is_ours` knows the names of the host declarations that clusterd makes over OMAPI.
    """

    def __init__(
        self,
        configurations: Sequence[Path],
        leases: Sequence[Path],
        ours: Sequence[Path],
        is_ours: Callable[[str], bool],
        run_in_thread: RunInThread,
    ) -> None:
        self._configurations = configurations
        self._leases = leases
        self._ours = frozenset(ours)
        self._is_ours = is_ours
        self._run_in_thread = run_in_thread

    async def read(self) -> ServerPicture:
        """See ServerReader."""
        return await self._run_in_thread(self._read)

    def _read(self) -> ServerPicture:
        seen: set[Path] = set(self._ours)
        findings = Findings(lambda name: _statements(_included(name), seen), self._is_ours)
        present = [path for path in self._configurations if path.exists()]
        if not present:
            names = " and ".join(map(str, self._configurations))
            raise Unreadable(f"there is no {names}: set configuration_file in [dhcp] to dhcpd's configuration")
        try:
            for path in present:
                findings.take(_statements(path, seen))
            for path in self._leases:
                if path.exists():
                    findings.take_leases(read_text(path), str(path))
        except Malformed as error:
            raise Unreadable(str(error)) from error
        return findings.picture


def includes(configuration: Path, wanted: Path) -> bool:
    """Whether dhcpd's configuration, or a file that it includes, includes this one. Blocks; raises Unreadable."""
    met: set[Path] = set()

    def take(name: str) -> Sequence[Statement]:
        path = _included(name)
        if path != wanted:
            return _statements(path, met)
        met.add(path)
        return ()

    try:
        Findings(take, lambda name: True).take(_statements(configuration, met))
    except Malformed as error:
        raise Unreadable(str(error)) from error
    return wanted in met


def _included(name: str) -> Path:
    """dhcpd reads an included file relative to its own directory, which is the root for a daemon."""
    return Path("/") / name


def _statements(path: Path, seen: set[Path]) -> Sequence[Statement]:
    if path in seen:
        return ()
    if len(seen) >= MAX_FILES:
        raise Unreadable(f"dhcpd's configuration has more than {MAX_FILES} files")
    seen.add(path)
    return parse(read_text(path), str(path))
