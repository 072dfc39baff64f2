"""First contact with dnsmasq: its configuration as the process that runs was given it, and every file that it names.

The command line of the process (`/proc/PID/cmdline`) says which files: distributions start dnsmasq with a `conf-dir`
that stands in no file. Hosts files that begin with our mark are ours, wherever they are.
"""

from collections.abc import Sequence
from pathlib import Path

from clusterd.dhcp.dnsmasq.findings import Findings
from clusterd.dhcp.dnsmasq.options import Option, expanded, expanded_command_line, files_of_directory
from clusterd.dhcp.first_contact import MAX_FILES, Look, ServerPicture, Unreadable, read_text
from clusterd.dhcp.host_lines import OWNER_MARK
from clusterd.dhcp.host_system import RunInThread
from clusterd.protocol.values import InterfaceReport

ETHERS = Path("/etc/ethers")


class DnsmasqReader:
    """Reads what the dnsmasq of `pid_file` was configured with, or, where it is given, one `configuration_file`.

    `ours` are the hosts file and the hosts directory that clusterd writes.
    """

    def __init__(
        self,
        pid_file: Path,
        configuration_file: Path | None,
        ours: Sequence[Path],
        look: Look,
        run_in_thread: RunInThread,
    ) -> None:
        self._pid_file = pid_file
        self._configuration_file = configuration_file
        self._ours = ours
        self._look = look
        self._run_in_thread = run_in_thread

    async def read(self) -> ServerPicture:
        """See ServerReader."""
        try:
            interfaces = await self._look()
        except (OSError, ValueError) as error:
            raise Unreadable(f"the interfaces of this host cannot be read: {error}") from error
        return await self._run_in_thread(lambda: self._read(interfaces))

    def _read(self, interfaces: Sequence[InterfaceReport]) -> ServerPicture:
        if self._configuration_file is not None:
            directory = Path("/")
            named = Option("conf-file", str(self._configuration_file), "clusterd's configuration")
            found = expanded([named], directory)
        else:
            arguments, directory, pid = self._command_line()
            found = expanded_command_line(arguments, f"the command line of dnsmasq (process {pid})", directory)
        if found.unread:
            raise Unreadable(found.unread[0])
        walk = _Walk(interfaces, directory, self._ours)
        walk.take(found.options)
        return walk.findings.picture

    def _command_line(self) -> tuple[list[str], Path, int]:
        """The arguments of the running dnsmasq, its directory, its process id."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (OSError, ValueError) as error:
            raise Unreadable(
                f"which configuration dnsmasq has cannot be told, for {self._pid_file} names no process ({error}): "
                f"start dnsmasq, or set configuration_file in [dhcp] to its configuration"
            ) from error
        if b"dnsmasq" not in words[0]:
            raise Unreadable(f"process {pid} of {self._pid_file} is no dnsmasq")
        try:
            directory = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            directory = Path("/")  # another user's process; a daemon's is the root
        return [word.decode("utf-8", "replace") for word in words[1:]], directory, pid


class _Walk:
    """From option to option, and into the hosts files that they name, each once."""

    def __init__(self, interfaces: Sequence[InterfaceReport], directory: Path, ours: Sequence[Path]) -> None:
        self.findings = Findings(interfaces)
        self._directory = directory
        self._ours = frozenset(path.resolve() for path in ours)
        self._seen: set[Path] = set()

    def take(self, options: Sequence[Option]) -> None:
        for option in options:
            match option.name:
                case "dhcp-hostsfile" | "dhcp-hostsdir":
                    self._hosts(self._directory / option.value.split(",")[0])
                case "read-ethers":
                    if ETHERS.exists():
                        self.findings.ethers(read_text(ETHERS), str(ETHERS))
                case "conf-script":
                    raise Unreadable(
                        f"{option.source}: what conf-script={option.value[:100]} prints is known to dnsmasq only; keep "
                        f"its pools and static entries out by hand (regionctl ranges add), then declare the subnets "
                        f"claimable (regionctl subnets set SUBNET --claimable-anyway)"
                    )
                case _:
                    self.findings.option(option)

    def _hosts(self, path: Path) -> None:
        if path.resolve() in self._ours:
            return
        if path.is_dir():
            paths = files_of_directory(path, ())
        elif path.exists():
            paths = [path]
        else:
            return  # dnsmasq goes on without it, and so do we
        for each in paths:
            if self._is_new(each):
                text = read_text(each)
                if not text.startswith(OWNER_MARK):
                    self.findings.host_lines(text, str(each))

    def _is_new(self, path: Path) -> bool:
        if path in self._seen:
            return False
        if len(self._seen) >= MAX_FILES:
            raise Unreadable(f"dnsmasq's configuration names more than {MAX_FILES} hosts files")
        self._seen.add(path)
        return True
