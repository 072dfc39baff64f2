"""ISC dhcpd's configuration (dhcpd.conf(5)) and leases file (dhcpd.leases(5)) as statements; pure.

Both are statements that end with `;` or with a block in braces. What is understood is what says who may get which
address: `range`, `range6`, `host`, `fixed-address`, `hardware`, the client identifiers, `include`. Any other statement
is passed over, its block looked into.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clusterd.dhcp.first_contact import MAX_REMARKS, ServerPicture, identifiers_of, safe_hostname
from clusterd.protocol.addresses import BITS, address_to_int, int_to_address, pack_address
from clusterd.protocol.values import IdentifierKind, ServerEntry, ServerPool, parse_mac

MAX_DEPTH = 100

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|#[^\n]*|[{};,=]|[^\s"#{};,=]+|\n', re.DOTALL)
# dhcpd writes a declaration's name and brace on one line, its last brace at the start of another, and escapes what is
# within quotes.
_LEASES_HOST = re.compile(r"^host (\S+) \{\n.*?^\}$", re.MULTILINE | re.DOTALL)
_OCTETS = re.compile(r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2})+", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"n": b"\n", "r": b"\r", "t": b"\t", "b": b"\b"}


class Malformed(ValueError):
    """The text is not dhcpd's. The message says where."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Its words, strings with their quotes; its block if it has one; the line it begins in, from 1."""

    words: tuple[str, ...]
    block: "tuple[Statement, ...] | None"
    source: str


def parse(text: str, source: str, first_line: int = 1) -> tuple[Statement, ...]:
    """All statements of a text, whose first line has that number in its file.

    Raises Malformed for braces and statements that do not end.
    """
    stack: list[tuple[tuple[str, ...], str, list[Statement]]] = []
    statements: list[Statement] = []
    words: list[str] = []
    line = begun = first_line
    end = 0
    for found in _TOKEN.finditer(text):
        if text[end : found.start()].strip():
            break  # a quote that does not end
        end = found.end()
        piece = found[0]
        if piece == "\n":
            line += 1
        elif piece == ";":
            if words:
                statements.append(Statement(tuple(words), None, f"{source}:{begun}"))
            words = []
        elif piece == "{":
            if len(stack) >= MAX_DEPTH:
                raise Malformed(f"{source}:{line}: more than {MAX_DEPTH} braces within each other")
            stack.append((tuple(words), f"{source}:{begun if words else line}", statements))
            statements, words = [], []
        elif piece == "}":
            if not stack or words:
                raise Malformed(f"{source}:{line}: a brace that ends nothing, or a statement that does not end")
            opened, where, outer = stack.pop()
            outer.append(Statement(opened, tuple(statements), where))
            statements = outer
        elif piece[0] != "#":
            if not words:
                begun = line
            words.append(piece)
            line += piece.count("\n")
    if stack or words or text[end:].strip():
        raise Malformed(f"{source}:{line}: the file ends within a statement")
    return tuple(statements)


Include = Callable[[str], Sequence[Statement]]


@dataclass(slots=True)
class Findings:
    """What the statements say. `include` gives the statements of another file, named as it stands there.

    `is_ours` tells by a host declaration's name whether clusterd made it.
    """

    include: Include
    is_ours: Callable[[str], bool] = lambda name: False
    pools: set[ServerPool] = field(default_factory=set)
    entries: set[ServerEntry] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    @property
    def picture(self) -> ServerPicture:
        return ServerPicture(frozenset(self.pools), frozenset(self.entries), tuple(self.remarks))

    def take(self, statements: Sequence[Statement]) -> None:
        """The statements of a configuration, in order, with what is in their blocks."""
        for statement in statements:
            self._one(statement)

    def _one(self, statement: Statement) -> None:
        word = statement.words[0].lower() if statement.words else ""
        try:
            if word == "include" and len(statement.words) == 2:
                self.take(self.include(unquoted(statement.words[1]).decode("utf-8", "replace")))
            elif word in ("range", "range6"):
                self.pools.add(_range(statement))
            elif word == "host" and statement.block is not None:
                self._host(statement)
            elif statement.block is not None:
                self.take(statement.block)
        except Malformed:
            raise
        except ValueError as error:
            self._remark(f"{statement.source}: {' '.join(statement.words)[:100]} was not understood: {error}")

    def take_leases(self, text: str, source: str) -> None:
        """The host declarations of a leases file: the last one of a name counts, and may say that it is deleted.

        Only these are parsed, and not those of ours: the file may have leases and hosts of ours by the 100,000.
        """
        last: dict[str, tuple[int, str]] = {}
        for found in _LEASES_HOST.finditer(text):
            if not self.is_ours(unquoted(found[1]).decode("utf-8", "replace")):
                last[found[1]] = (found.start(), found[0])
        for at, declaration in last.values():
            line = text.count("\n", 0, at) + 1
            parsed = parse(declaration, source, line)
            if len(parsed) != 1:
                self._remark(f"{source}, line {line}: this host was not understood: its braces do not match")
            elif not any(inner.words == ("deleted",) for inner in parsed[0].block or ()):
                self._one(parsed[0])

    def _host(self, statement: Statement) -> None:
        name = unquoted(statement.words[1]).decode("utf-8", "replace") if len(statement.words) > 1 else ""
        if self.is_ours(name):
            return
        clients: list[tuple[IdentifierKind, bytes]] = []
        addresses: list[str] = []
        hostname = name
        for words in (inner.words for inner in statement.block or () if inner.words):
            lowered = tuple(word.lower() for word in words)
            if lowered[:2] == ("hardware", "ethernet") and len(words) == 3:
                clients.append((IdentifierKind.MAC, parse_mac(words[2])))
            elif lowered[0] in ("fixed-address", "fixed-address6"):
                addresses += [word for word in words[1:] if word != ","]
            elif lowered[0] in ("uid", "dhcp-client-identifier") and len(words) == 2:
                clients.append((IdentifierKind.CLIENT_ID, octets(words[1])))
            elif lowered[:2] == ("option", "dhcp-client-identifier") and len(words) >= 3:
                clients.append((IdentifierKind.CLIENT_ID, octets(words[-1])))
            elif lowered[:3] == ("host-identifier", "option", "dhcp6.client-id") and len(words) == 4:
                clients.append((IdentifierKind.DUID, octets(words[3])))
            elif lowered[:2] == ("option", "host-name") and len(words) == 3:
                hostname = unquoted(words[2]).decode("utf-8", "replace")
        for address in addresses:
            try:
                family = 4 if len(pack_address(address)) == 4 else 6
            except ValueError:
                self._remark(
                    f"{statement.source}: host {name[:64]} has the address of the name {address[:64]}, which only "
                    f"dhcpd looks up: keep it out by hand (regionctl ranges add)"
                )
                continue
            foreign = IdentifierKind.DUID if family == 4 else IdentifierKind.CLIENT_ID
            identifiers = identifiers_of(client for client in clients if client[0] is not foreign)
            self.entries.add(ServerEntry(address, identifiers, safe_hostname(hostname), statement.source))

    def _remark(self, text: str) -> None:
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(text)


def _range(statement: Statement) -> ServerPool:
    """`range [dynamic-bootp] low [high]`, `range6 low high`, `range6 network/length [temporary]`."""
    words = [word for word in statement.words[1:] if word.lower() not in ("dynamic-bootp", "temporary")]
    if not 1 <= len(words) <= 2:
        raise ValueError("expected one or two addresses")
    network, slash, length = words[0].partition("/")
    if not slash and len(words) == 1 and statement.words[-1].lower() == "temporary":
        length, slash = "64", "/"
    if slash:
        family, number = address_to_int(network)
        if not length.isdecimal() or int(length) > BITS[family]:
            raise ValueError("expected a prefix length")
        rest = (1 << BITS[family] - int(length)) - 1
        first = number & ~rest
        return ServerPool(int_to_address(family, first), int_to_address(family, first | rest), statement.source)
    low, high = sorted((words[0], words[-1]), key=pack_address)  # dhcpd takes them in either order
    return ServerPool(low, high, statement.source)


def unquoted(word: str) -> bytes:
    """A word, or a string without its quotes and with its escapes (octal, hexadecimal and single letters) undone."""
    if not word.startswith('"'):
        return word.encode("utf-8", "replace")
    return b"".join(_pieces(word[1:-1]))


def _pieces(text: str) -> Iterator[bytes]:
    at = 0
    for found in _ESCAPE.finditer(text):
        yield text[at : found.start()].encode("utf-8", "replace")
        at = found.end()
        escape = found[1]
        if escape[0] == "x" and len(escape) > 1:
            yield bytes([int(escape[1:], 16)])
        elif escape[0] in "01234567":
            yield bytes([int(escape, 8) & 255])
        else:
            yield _ESCAPED.get(escape, escape.encode("utf-8", "replace"))
    yield text[at:].encode("utf-8", "replace")


def octets(word: str) -> bytes:
    """An identifier: hexadecimal octets with colons, or a string."""
    if _OCTETS.fullmatch(word):
        return bytes(int(octet, 16) for octet in word.split(":"))
    return unquoted(word)
