"""First contact with Kea: the configuration files of its servers, with everything that they include."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterd.dhcp.first_contact import ServerPicture, Unreadable, read_text
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.kea.findings import Findings, parse


class KeaReader:
    """Reads the configuration files of the Kea servers of this host; one that does not exist is none.

    `is_ours` knows the reservations that clusterd makes, in the files that it writes for Kea to include.
    """

    def __init__(
        self,
        configurations: Sequence[Path],
        is_ours: Callable[[Mapping[str, Any]], bool],
        run_in_thread: RunInThread,
    ) -> None:
        self._configurations = configurations
        self._is_ours = is_ours
        self._run_in_thread = run_in_thread

    async def read(self) -> ServerPicture:
        """See ServerReader."""
        return await self._run_in_thread(self._read)

    def _read(self) -> ServerPicture:
        findings = Findings(self._is_ours)
        present = [path for path in self._configurations if path.exists()]
        if not present:
            names = " and ".join(map(str, self._configurations))
            raise Unreadable(f"there is no {names}: set configuration_file in [dhcp] to Kea's configuration")
        for path in present:
            try:
                findings.take(parse(read_text(path), lambda name: read_text(Path("/") / name)), str(path))
            except (ValueError, RecursionError) as error:
                raise Unreadable(f"{path}: {error}") from error
        return findings.picture
