"""Whether AppArmor keeps a DHCP server from a file of ours, by its profile as it is written, and the missing line.

Profiles are text (apparmor.d(5)): rules such as `/etc/dhcp/** r,` in a block that names the program. Nobody but the
kernel knows what was compiled of them; what is read here explains a refusal, it does not predict one for certain.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_PROFILE_BYTES = 1 << 20
MAX_FILES = 500
MAX_DEPTH = 10

PROFILES = Path("etc/apparmor.d")
_ENABLED = Path("sys/module/apparmor/parameters/enabled")
_LOADED = Path("sys/kernel/security/apparmor/profiles")

_HEADING = re.compile(r'^\s*(?:profile\s+"?([^\s"{]+)"?\s*)?("?[/@][^\s"]*"?)?\s*(?:flags\s*=\s*\(([^)]*)\)\s*)?\{\s*$')
_INCLUDE = re.compile(r'^\s*#?include\s+(?:if\s+exists\s+)?(?:<([^>]+)>|"([^"]+)")')
_ACCESS = "[rwamlkxiupcPUC]+"
_RULE = re.compile(
    r"^\s*((?:(?:audit|allow|deny|owner)\s+)*)(?:file\s+)?"
    rf'(?:("[^"]+"|[/@{{]\S*)\s+({_ACCESS})|({_ACCESS})\s+("[^"]+"|[/@{{]\S*?))(?:\s*->\s*\S+)?\s*,\s*(?:#.*)?$'
)
_ALL_FILES = re.compile(r"^\s*(?:allow\s+)?file\s*,")
_VARIABLES = {"PROC": "/proc", "run": "/{,var/}run", "sys": "/sys", "HOME": "{/home/*,/root}", "HOMEDIRS": "/home"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Access to the files that a pattern matches; `deny` wins over every other rule."""

    pattern: re.Pattern[str]
    access: str
    deny: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of one program: where it stands, and whether it has a place for a site's own rules."""

    name: str
    file: Path
    enforced: bool
    rules: tuple[Rule, ...]
    local: Path | None

    def allows(self, path: str, access: str = "r") -> bool:
        """Whether a rule gives this access, and none takes it."""
        fitting = [rule for rule in self.rules if rule.pattern.fullmatch(path)]
        denied = any(rule.deny and access in rule.access for rule in fitting)
        return not denied and any(not rule.deny and access in rule.access for rule in fitting)


def why_confined(program: str, path: Path, root: Path = Path("/")) -> str | None:
    """A sentence with the missing line, where AppArmor keeps this program from reading the file; else None.

    `root` is where the kernel's and AppArmor's own files are. Blocks; never raises OSError.
    """
    if not _text(root / _ENABLED, "").startswith("Y"):
        return None
    installed = os.path.realpath(shutil.which(program) or program)
    wanted = os.path.realpath(path)
    profile = _profile_of(installed, root)
    if profile is None or not profile.enforced or not _is_enforced(profile.name, root) or profile.allows(wanted):
        return None
    place = root / PROFILES
    shown = Path("/") / profile.file.relative_to(root)
    into = Path("/") / (place / profile.local).relative_to(root) if profile.local is not None else shown
    return (
        f"AppArmor is the likely cause: its profile {profile.name} has no rule with which {installed} may read "
        f"{wanted}. Add the line `{_quoted(wanted)} r,` to {into} and load it with apparmor_parser -r {shown}."
    )


def _profile_of(program: str, root: Path) -> Profile | None:
    for file in _files(root / PROFILES):
        profile = parse_profile(_text(file, ""), file, program, lambda name: _included(name, root))
        if profile is not None:
            return profile
    return None


def parse_profile(
    text: str, file: Path, program: str, include: Callable[[str], Iterable[str]] = lambda name: ()
) -> Profile | None:
    """The profile in this text that is for the program, None when none is.

    `include` gives the texts that stand for `include <name>`.
    """
    lines = iter(text.splitlines())
    for line in lines:
        heading = _HEADING.match(line)
        if heading is None:
            continue
        named, attached, flags = heading.groups()
        attached = (attached or named or "").strip('"')
        block = list(_block(lines))
        if attached.startswith(("/", "@")) and _glob(attached).fullmatch(program):
            return Profile(
                named or attached,
                file,
                "complain" not in (flags or ""),
                tuple(_rules(block, include, 0)),
                next((Path(name) for name in map(_include_of, block) if name and name.startswith("local/")), None),
            )
    return None


def _block(lines: Iterator[str]) -> Iterator[str]:
    """The lines up to the brace that ends the block, without those of blocks within it."""
    depth = 1
    for line in lines:
        plain = line.strip()
        if plain == "}":
            depth -= 1
            if depth == 0:
                return
        elif plain.endswith("{") and not plain.startswith("#"):
            depth += 1
        elif depth == 1:
            yield line


def _rules(lines: Iterable[str], include: Callable[[str], Iterable[str]], depth: int) -> Iterator[Rule]:
    for line in lines:
        name = _include_of(line)
        if name is not None:
            if depth < MAX_DEPTH:
                for text in include(name):
                    yield from _rules(text.splitlines(), include, depth + 1)
        elif _ALL_FILES.match(line):
            yield Rule(re.compile(".*"), "rwmlk", deny=False)
        elif (found := _RULE.match(line)) is not None:
            words, path, access, access_before, path_after = found.groups()
            pattern = (path or path_after).strip('"')
            yield Rule(_glob(pattern), access or access_before, "deny" in words.split())


def _include_of(line: str) -> str | None:
    found = _INCLUDE.match(line)
    return None if found is None else found[1] or found[2]


def _glob(pattern: str) -> re.Pattern[str]:
    """AppArmor's patterns: `*` and `?` stop at a slash, `**` does not, `{a,b}` is either, unknown variables a word."""
    for _ in range(MAX_DEPTH):
        pattern, replaced = re.subn(r"@\{(\w+)\}", lambda found: _VARIABLES.get(found[1], "*"), pattern)
        if not replaced:
            break
    pattern = re.sub(r"\*{3,}", "**", pattern)
    pieces: list[str] = []
    depth = 0
    for token in re.findall(r"\*\*|\[[^\]]*\]|\\.|.", pattern):
        match token:
            case "**":
                pieces.append(".*")
            case "*":
                pieces.append("[^/]*")
            case "?":
                pieces.append("[^/]")
            case "{":
                depth += 1
                pieces.append("(?:")
            case "}" if depth:
                depth -= 1
                pieces.append(")")
            case "," if depth:
                pieces.append("|")
            case _ if token.startswith("[") and len(token) > 2:
                pieces.append(_one_of(token[1:-1]))
            case _ if token.startswith("\\"):
                pieces.append(re.escape(token[1:]))
            case _:
                pieces.append(re.escape(token))
    try:
        return re.compile("".join(pieces) + ")" * depth)
    except re.error:
        return re.compile(re.escape(pattern))


def _one_of(characters: str) -> str:
    negated = characters.startswith("^") and len(characters) > 1
    escaped = re.sub(r"([\[\\&|~^])", r"\\\1", characters[1:] if negated else characters)
    plain = re.sub(r"(?<!\w)-|-(?!\w)", r"\-", escaped)  # a range is between two letters or digits
    return f"[{'^' if negated else ''}{plain}]"


def _is_enforced(name: str, root: Path) -> bool:
    """What the kernel says; yes where it does not let us ask and nobody disabled the profile."""
    try:
        loaded = (root / _LOADED).read_text(errors="replace")
    except OSError:
        return True
    return f"{name} (enforce)" in loaded.splitlines()


def _included(name: str, root: Path) -> Iterator[str]:
    path = root / name.lstrip("/") if name.startswith("/") else root / PROFILES / name
    for file in _files(path) if path.is_dir() else [path]:
        yield _text(file, "")


def _files(directory: Path) -> Sequence[Path]:
    """The profiles of a directory, without what editors and packages leave, and without the disabled ones."""
    disabled = directory / "disable"
    try:
        found = sorted(path for path in directory.iterdir() if path.is_file())
    except OSError:
        return []
    unwanted = ("~", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".dpkg-bak", ".rpmnew", ".rpmsave", ".orig", ".rej")
    return [
        path
        for path in found[:MAX_FILES]
        if not path.name.startswith(".") and not path.name.endswith(unwanted) and not (disabled / path.name).exists()
    ]


def _text(path: Path, default: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PROFILE_BYTES).decode(errors="replace")
    except OSError:
        return default


def _quoted(path: str) -> str:
    return f'"{path}"' if re.search(r"\s", path) else path
