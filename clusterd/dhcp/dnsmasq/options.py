"""dnsmasq's own configuration as options, read as it reads them itself (option.c of 2.90).

An option is a line of a configuration file (`dhcp-range=…`) or an argument of the command line (`--dhcp-range=…`,
`-F …`). First come those of the command line, each where it stands with what the file that it names says.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterd.dhcp.first_contact import MAX_FILES, Unreadable, read_text

DEFAULT_CONFIGURATION = Path("/etc/dnsmasq.conf")
MAX_DEPTH = 50

# Of the command line: the short options that matter here. The others are skipped, with what belongs to them.
_SHORT = {"C": "conf-file", "7": "conf-dir", "F": "dhcp-range", "G": "dhcp-host", "Z": "read-ethers"}
_SHORT |= {"X": "dhcp-lease-max", "l": "dhcp-leasefile"}
_LONG_WITH_VALUE = frozenset(
    {"conf-file", "conf-dir", "conf-script", "dhcp-range", "dhcp-host", "dhcp-hostsfile", "dhcp-hostsdir"}
    | {"dhcp-lease-max", "dhcp-leasefile"}
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of dnsmasq, without its hyphens; `source` is where it stands."""

    name: str
    value: str
    source: str


def options_of_file(text: str, source: str) -> Iterator[Option]:
    """The options of a configuration file, in order."""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = without_comment(raw)
        if line:
            name, _, value = line.partition("=")
            yield Option(name.strip().removeprefix("--").lower(), value.strip(), f"{source}:{number}")


def options_of_arguments(arguments: Sequence[str], source: str) -> Iterator[Option]:
    """The options of a command line that matter here, without the program's name."""
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name in _LONG_WITH_VALUE:
                value = next(rest, "")
            yield Option(name.lower(), value, source)
        elif len(word) >= 2 and word[0] == "-" and word[1] in _SHORT:
            name = _SHORT[word[1]]
            value = word[2:] if word[2:] or name == "read-ethers" else next(rest, "")
            yield Option(name, value.removeprefix("="), source)


def without_comment(line: str) -> str:
    """A line without its comment and its quotes: a `#` begins one at the start or after a blank, outside of quotes."""
    plain: list[str] = []
    quoted = False
    characters = iter(line)
    for character in characters:
        if character == "\\" and quoted:
            plain.append(next(characters, ""))
        elif character == '"':
            quoted = not quoted
        elif character == "#" and not quoted and (not plain or plain[-1].isspace()):
            break
        else:
            plain.append(character)
    return "".join(plain).strip()


def wanted_in_directory(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Which files of a `conf-dir` dnsmasq reads: `*.conf` includes, `.bak` or `*.bak` without a star excludes."""
    includes = [pattern[1:] for pattern in patterns if pattern.startswith("*")]
    excludes = [pattern for pattern in patterns if pattern and not pattern.startswith("*")]
    return sorted(
        name
        for name in names
        if name
        and not name.startswith(".")
        and not name.endswith("~")
        and not (name.startswith("#") and name.endswith("#"))
        and not name.endswith(tuple(excludes) or ("\0",))
        and (not includes or name.endswith(tuple(includes)))
    )


# ---- from files ----


@dataclass(frozen=True, slots=True)
class Expanded:
    """Options with those of all files that they name, in order. `unread`: a sentence on each file that is not there.

    What `conf-script` prints is known to dnsmasq only: that option is left as it is.
    """

    options: tuple[Option, ...]
    unread: tuple[str, ...]


def expanded_command_line(words: Sequence[str], source: str, directory: Path = Path("/")) -> Expanded:
    """What a dnsmasq was told that was started with these words, without its name, in this directory.

    Blocks while it reads files; never raises OSError.
    """
    said = list(options_of_arguments(words, source))
    if not any(option.name == "conf-file" for option in said) and DEFAULT_CONFIGURATION.exists():
        said.append(Option("conf-file", str(DEFAULT_CONFIGURATION), source))
    return expanded(said, directory)


def expanded(options: Iterable[Option], directory: Path) -> Expanded:
    """As `expanded_command_line`, from these options."""
    reading = _Reading(directory)
    found = tuple(inner for option in options for inner in reading.expand(option))
    return Expanded(found, tuple(reading.unread))


class _Reading:
    """Each file once, as dnsmasq does, so that there is an end to it."""

    def __init__(self, directory: Path) -> None:
        self.unread: list[str] = []
        self._directory = directory
        self._seen: set[Path] = set()

    def expand(self, option: Option, depth: int = 0) -> Iterator[Option]:
        try:
            match option.name:
                case "conf-file":
                    paths = [self._directory / option.value]
                case "conf-dir":
                    name, *patterns = option.value.split(",")
                    paths = files_of_directory(self._directory / name, patterns)
                case _:
                    yield option
                    return
        except (Unreadable, ValueError) as error:  # ValueError: a path with a NUL octet
            self.unread.append(f"{option.value[:200]!r}: {error}" if isinstance(error, ValueError) else str(error))
            return
        for path in paths:
            yield from self._file(path, depth)

    def _file(self, path: Path, depth: int) -> Iterator[Option]:
        if path in self._seen:
            return
        self._seen.add(path)
        try:
            if len(self._seen) > MAX_FILES or depth > MAX_DEPTH:
                raise Unreadable(f"{path} is one file too many: more than {MAX_FILES}, or {MAX_DEPTH} in each other")
            options = list(options_of_file(read_text(path), str(path)))
        except (Unreadable, ValueError) as error:
            self.unread.append(f"{str(path)[:200]!r}: {error}" if isinstance(error, ValueError) else str(error))
            return
        for option in options:
            yield from self.expand(option, depth + 1)


def files_of_directory(directory: Path, patterns: Sequence[str]) -> list[Path]:
    """What dnsmasq reads of a directory. Raises Unreadable, and ValueError for a path with a NUL octet."""
    try:
        names = [path.name for path in directory.iterdir() if path.is_file()]
    except OSError as error:
        raise Unreadable(f"{directory} cannot be listed: {error.strerror or error}") from error
    return [directory / name for name in wanted_in_directory(names, patterns)]
