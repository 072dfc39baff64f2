"""Pages of dnsmasq's leases, from its lease file as it is now; pure. The format: `clusterd.dhcp.dnsmasq.leases`.

dnsmasq replaces the whole file whenever a lease changes, so that nothing about it is worth remembering.
"""

from collections.abc import Iterator

from clusterd.dhcp.dnsmasq.leases import Lease, read_lease
from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind

FEW = 16  # so many addresses are looked for by text


def page_of(content: bytes, question: LeaseQuestion, now: float) -> LeasePage:
    """The answer to a question. 100,000 leases take about 0.1 s: not in the reactor's thread."""
    return choose(_rows(content, question.asked_for), _server_lease, question, now)


def leases_of(content: bytes, wanted: ServerLease) -> list[Lease]:
    """The lease on an address, if it is (still) the wanted client's: none or one."""
    found = [words_of(line) for _, line in _rows(content, [wanted.address])]
    return [
        read_lease(words)
        for words in found
        if (lease := _from_words(words)) is not None and set(lease.identifiers) == set(wanted.identifiers)
    ]


def words_of(line: bytes) -> list[str]:
    """The five words of a line."""
    return line.decode("utf-8", "replace").split(" ")


def _rows(content: bytes, asked_for: list[str] | None) -> Iterator[tuple[bytes, bytes]]:
    if asked_for is not None and len(asked_for) <= FEW:
        for address in asked_for:
            yield from _lines_with(content, address)
        return
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        line = content[start:end]
        start = end + 1
        words = line.split(b" ")
        if len(words) == 5:
            try:
                yield pack_address(words[2].decode("ascii", "replace")), line
            except ValueError:
                continue


def _lines_with(content: bytes, address: str) -> Iterator[tuple[bytes, bytes]]:
    word = f" {address} ".encode("ascii")
    at = -1
    while (at := content.find(word, at + 1)) >= 0:
        start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
        words = content[start:end].split(b" ")
        if end >= 0 and len(words) == 5 and words[2] == word.strip():
            yield pack_address(address), content[start:end]
            return


def _server_lease(line: bytes) -> ServerLease | None:
    return _from_words(words_of(line))


def _from_words(words: list[str]) -> ServerLease | None:
    try:
        expiry, lease = int(words[0]), read_lease(words)
        identifiers = []
        if lease.mac is not None:
            identifiers.append(Identifier(IdentifierKind.MAC, lease.mac))
        if lease.client is not None:
            kind = IdentifierKind.DUID if lease.is_v6 else IdentifierKind.CLIENT_ID
            identifiers.append(Identifier(kind, lease.client))
        name = None if words[3] == "*" else words[3]
        return ServerLease(lease.address, tuple(identifiers), name, expiry or None)
    except ValueError:
        return None
