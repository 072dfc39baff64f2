"""What DHCP servers' own files say of fixed addresses, as the lines of an import.

clusterd reads the same files when it comes to a server that was in use before; its parsers, which do no I/O, are used
here and nowhere else in the region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from clusterd.dhcp.dnsmasq import findings as dnsmasq
from clusterd.dhcp.dnsmasq.options import options_of_file
from clusterd.dhcp.isc import findings as isc
from clusterd.dhcp.kea import findings as kea
from clusterd.protocol.values import Identifier, IdentifierKind, ServerEntry
from regiond.domain.line_files import column_named
from regiond.domain.lines import Line, LineFormat
from regiond.domain.reservations import Kind

MAX_FILE_BYTES = 64 << 20
MAX_INCLUDES = 1000


class ServerFormat(StrEnum):
    """Whose file it is."""

    DHCPD = "dhcpd"
    DNSMASQ = "dnsmasq"
    KEA = "kea"


@dataclass(frozen=True, slots=True)
class Converted:
    """Lines, where each comes from, and what was not understood."""

    lines: Sequence[Line]
    sources: Sequence[str]
    remarks: Sequence[str]


def read_text(path: Path) -> str:
    """Raises ValueError and OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return content.decode("utf-8-sig", "replace")


def format_of(name: str, text: str) -> LineFormat | ServerFormat:
    """What sort of file it is, by its content, and for what both may be by its name."""
    begin = text.lstrip()
    if begin.startswith(("{", "//", "/*")) and ('"Dhcp4"' in text or '"Dhcp6"' in text):
        return ServerFormat.KEA
    if begin.startswith("{"):
        return LineFormat.JSONL
    first = begin.partition("\n")[0]
    for delimiter in (",", ";", "\t"):
        if any(column_named(cell.strip(' "')) == "address" for cell in first.split(delimiter)):
            return LineFormat.CSV
    if any(line.split("=")[0].strip() in ("dhcp-host", "dhcp-range") for line in text.splitlines()):
        return ServerFormat.DNSMASQ
    if "{" in text and ("host " in text or "subnet" in text):
        return ServerFormat.DHCPD
    return LineFormat.CSV if name.endswith(".csv") else ServerFormat.DNSMASQ


def convert(form: ServerFormat, path: Path, text: str) -> Converted:
    """The fixed addresses in a server's file and in what it includes. Raises ValueError and OSError."""
    entries, remarks = _READERS[form](path, text)
    lines, sources = [], []
    for entry in sorted(entries, key=lambda each: (each.source, each.address)):
        lines.append(_line(entry))
        sources.append(entry.source)
    return Converted(lines, sources, remarks)


def _line(entry: ServerEntry) -> Line:
    """An entry that names no client only keeps its address from others, and so does its line."""

    def texts(kind: IdentifierKind) -> list[str]:
        return [identifier.text for identifier in entry.identifiers if identifier.kind is kind]

    client_id, duid = _one(entry, IdentifierKind.CLIENT_ID), _one(entry, IdentifierKind.DUID)
    return Line(
        address=entry.address,
        kind=Kind.DEVICE if entry.identifiers else Kind.USER,
        macs=tuple(texts(IdentifierKind.MAC)),
        client_id=None if client_id is None else client_id.text,
        duid=None if duid is None else duid.text,
        hostname=entry.hostname,
    )


def _one(entry: ServerEntry, kind: IdentifierKind) -> Identifier | None:
    found = [identifier for identifier in entry.identifiers if identifier.kind is kind]
    if len(found) > 1:
        raise ValueError(f"{entry.source}: {entry.address} has several identifiers of kind {kind}: keep one")
    return found[0] if found else None


class _Includes:
    """Files that a file includes, each once; a relative name is looked for beside the file."""

    def __init__(self, first: Path) -> None:
        self._first = first
        self._seen = {first.resolve()}

    def text(self, name: str) -> tuple[Path, str] | None:
        """The file and its text, None where it was read before."""
        path = self._first.parent / name
        if path.resolve() in self._seen:
            return None
        if len(self._seen) > MAX_INCLUDES:
            raise ValueError(f"{self._first} includes more than {MAX_INCLUDES} files")
        self._seen.add(path.resolve())
        return path, read_text(path)


Reading = tuple[set[ServerEntry], Sequence[str]]


def _of_dhcpd(path: Path, text: str) -> Reading:
    includes = _Includes(path)

    def included(name: str) -> Sequence[isc.Statement]:
        found = includes.text(name)
        return () if found is None else isc.parse(found[1], str(found[0]))

    findings = isc.Findings(included)
    findings.take(isc.parse(text, str(path)))
    return findings.entries, findings.remarks


def _of_dnsmasq(path: Path, text: str) -> Reading:
    """A configuration file, whose own hosts files are read, too, or a hosts file."""
    includes = _Includes(path)
    findings = dnsmasq.Findings()
    options = list(options_of_file(text, str(path)))
    if not any(option.name in _DNSMASQ_OPTIONS for option in options):
        findings.host_lines(text, str(path))
        return findings.entries, findings.remarks
    for option in options:
        if option.name == "dhcp-hostsfile":
            found = includes.text(option.value)
            if found is not None:
                findings.host_lines(found[1], str(found[0]))
        elif option.name in ("conf-file", "conf-dir", "dhcp-hostsdir"):
            findings.remark(f"{option.source}: {option.name}={option.value} is not followed: import those files, too")
        else:
            findings.option(option)
    return findings.entries, findings.remarks


_DNSMASQ_OPTIONS = frozenset({"dhcp-host", "dhcp-range", "dhcp-hostsfile", "dhcp-hostsdir", "conf-file", "conf-dir"})


def _of_kea(path: Path, text: str) -> Reading:
    includes = _Includes(path)

    def included(name: str) -> str:
        found = includes.text(name)
        return "" if found is None else found[1]

    findings = kea.Findings()
    findings.take(kea.parse(text, included), str(path))
    return findings.entries, findings.remarks


_READERS: dict[ServerFormat, Callable[[Path, str], Reading]] = {
    ServerFormat.DHCPD: _of_dhcpd,
    ServerFormat.DNSMASQ: _of_dnsmasq,
    ServerFormat.KEA: _of_kea,
}
