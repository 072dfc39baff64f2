"""Who gets through the handshake, on real TLS over loopback: on each side, everybody but the right one is refused."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.daemon.endpoints import TlsAddress
from clusterd.daemon.handshakes import Admission, HandshakeFailed
from clusterd.daemon.mutual_tls import (
    Credentials,
    PeerName,
    TlsConnections,
    cluster_context,
    enrolling_context,
    enrolment_listener_context,
    fingerprint_of,
    name_of,
    parse_fingerprint,
    peer_certificate,
    region_context,
)
from clusterd.protocol.connection import Link, Responders
from tests.certificates import (
    CLUSTER,
    OTHER_REGION,
    REGION,
    authority,
    cluster_credentials,
    expired,
    now,
    region_credentials,
    serials,
    with_names,
)
from tests.waiting import until

reactor: Any = global_reactor
OURS = authority()
REGION_URI = x509.UniformResourceIdentifier(str(PeerName(REGION)))
CLUSTER_URI = x509.UniformResourceIdentifier(str(PeerName(REGION, CLUSTER)))


class Talker(Protocol):
    """Notes who the peer is, and that it was there at all."""

    def __init__(self, met: list["Talker"]) -> None:
        self.met = met
        self.received = b""
        self.lost: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        self.met.append(self)
        self.peer = peer_certificate(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


@dataclass
class Listening:
    """A TLS listener; `met` are the protocols that were made, `turned_away` the log lines of those that were not."""

    port: Any
    met: list[Talker]
    turned_away: list[LogEvent] = field(default_factory=list)

    @property
    def address(self) -> TlsAddress:
        return TlsAddress("127.0.0.1", self.port.getHost().port)

    async def connect(self, context: SSL.Context) -> Talker:
        met: list[Talker] = []
        made = await self.address.client_endpoint(reactor, TlsConnections(lambda: context)).connect(
            Factory.forProtocol(lambda: Talker(met))
        )
        assert isinstance(made, Talker)
        return made

    async def reason(self) -> str:
        await until(lambda: bool(self.turned_away))
        (line,) = self.turned_away
        assert line["peer"].startswith("127.0.0.1:")
        return str(line["reason"])


Listen = Callable[[SSL.Context], Any]


@pytest_twisted.async_yield_fixture
async def listen() -> AsyncIterator[Listen]:
    made: list[Listening] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("event") == "link.handshake-failed":
            made[-1].turned_away.append(event)

    async def start(context: SSL.Context) -> Listening:
        met: list[Talker] = []
        endpoint = TlsAddress("127.0.0.1", 0).server_endpoint(
            reactor, TlsConnections(lambda: context), Admission(reactor)
        )
        port = await endpoint.listen(Factory.forProtocol(lambda: Talker(met)))
        made.append(Listening(port, met))
        return made[-1]

    globalLogPublisher.addObserver(observe)
    yield start
    globalLogPublisher.removeObserver(observe)
    for one in made:
        await maybeDeferred(one.port.stopListening)
        for talker in one.met:
            if not talker.lost.called:
                transport: Any = talker.transport
                transport.abortConnection()
                await talker.lost


def own_context(credentials: Credentials) -> SSL.Context:
    """A client that shows these and believes the region's authority, whoever the peer is."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(credentials.key)
    context.use_certificate(credentials.certificate)
    return context


async def end(talker: Talker) -> str:
    """What the peer's end of the connection said when it turned us away."""
    return str(await talker.lost)


@pytest_twisted.ensureDeferred
async def test_each_side_knows_the_other_by_its_certificate(listen: Listen) -> None:
    ours = cluster_credentials(OURS)
    server = await listen(region_context(region_credentials(OURS), REGION))
    client = await server.connect(cluster_context(ours, REGION))
    await until(lambda: bool(server.met))
    assert client.peer is not None and client.peer.name == PeerName(REGION)
    (met,) = server.met
    assert met.peer is not None
    assert (met.peer.name, met.peer.common_name) == (PeerName(REGION, CLUSTER), "rack-7")
    assert met.peer.serial == f"{ours.certificate.serial_number:x}"
    client.transport.write(b"hello")
    await until(lambda: met.received == b"hello")
    client.transport.abortConnection()
    await client.lost
    assert server.turned_away == []


@pytest_twisted.ensureDeferred
async def test_a_link_does_not_hold_small_boxes_back(listen: Listen) -> None:
    server = await listen(region_context(region_credentials(OURS), REGION))
    context = cluster_context(cluster_credentials(OURS), REGION)
    endpoint = server.address.client_endpoint(reactor, TlsConnections(lambda: context))
    link: Any = await endpoint.connect(Factory.forProtocol(lambda: Link(reactor, Responders())))
    assert link.transport.getTcpNoDelay()
    link.abort()
    await link.lost


FOREIGN = authority()
WRONG_CLUSTERS: dict[str, tuple[Callable[[], Credentials], str]] = {
    "an authority of the same name": (lambda: cluster_credentials(FOREIGN), "another authority|signature is wrong"),
    "expired": (lambda: expired(OURS), "expired"),
    "another region's cluster": (
        lambda: with_names(OURS, [x509.UniformResourceIdentifier(str(PeerName(OTHER_REGION, CLUSTER)))]),
        "no cluster of this region",
    ),
    "a region's own certificate": (lambda: region_credentials(OURS), "another purpose"),
    "a region's name": (lambda: with_names(OURS, [REGION_URI]), "no cluster of this region"),
    "no name": (lambda: with_names(OURS, None), "is of nobody"),
    "two names": (lambda: with_names(OURS, [CLUSTER_URI, CLUSTER_URI]), "is of nobody"),
    "a host name": (lambda: with_names(OURS, [x509.DNSName(CLUSTER)]), "is of nobody"),
    "signed by somebody else": (lambda: with_names(OURS, [CLUSTER_URI], signed_with=FOREIGN), "signature is wrong"),
    "signed by a cluster": (
        lambda: with_names(
            type(OURS)(REGION, (made := cluster_credentials(OURS)).certificate, made.key), [CLUSTER_URI]
        ),
        "another authority",
    ),
}


@pytest.mark.parametrize("case", WRONG_CLUSTERS)
@pytest_twisted.ensureDeferred
async def test_a_region_lets_in_none_but_its_clusters(listen: Listen, case: str) -> None:
    make, said = WRONG_CLUSTERS[case]
    server = await listen(region_context(region_credentials(OURS), REGION))
    client = await server.connect(own_context(make()))
    await client.lost
    reason = await server.reason()
    assert any(part in reason for part in said.split("|")), reason
    assert server.met == [], "nothing that answers commands was ever made"


@pytest_twisted.ensureDeferred
async def test_a_region_lets_nobody_in_without_a_certificate(listen: Listen) -> None:
    server = await listen(region_context(region_credentials(OURS), REGION))
    client = await server.connect(SSL.Context(SSL.TLS_METHOD))
    await client.lost
    assert "did not return a certificate" in await server.reason()
    assert server.met == []


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_only_openssl_can_read_is_refused_as_any_other(listen: Listen, tmp_path: Path) -> None:
    ours = cluster_credentials(OURS)
    der = ours.certificate.public_bytes(Encoding.DER)
    version_3, version_100 = bytes.fromhex("a003020102"), bytes.fromhex("a003020163")
    assert der.count(version_3) == 1
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(ours.key)
    (tmp_path / "odd.der").write_bytes(der.replace(version_3, version_100))
    context.use_certificate_file(tmp_path / "odd.der", FILETYPE_ASN1)
    server = await listen(region_context(region_credentials(OURS), REGION))
    client = await server.connect(context)
    await client.lost
    assert await server.reason() == "its certificate cannot be read"
    assert server.met == []


@pytest_twisted.ensureDeferred
async def test_a_cluster_is_told_that_its_certificate_is_not_taken(listen: Listen) -> None:
    server = await listen(region_context(region_credentials(OURS), REGION))
    client = await server.connect(cluster_context(Credentials(*_parts(expired(OURS))), REGION))
    assert "expired" in await end(client)
    assert "expired" in await server.reason()


def _parts(credentials: Credentials) -> Any:
    return credentials.key, credentials.certificate, credentials.authority


WRONG_REGIONS: dict[str, tuple[Callable[[], Credentials], str]] = {
    "another authority": (lambda: region_credentials(FOREIGN), "another authority|signature is wrong"),
    "a cluster that poses as the region": (lambda: cluster_credentials(OURS), "another purpose"),
    "a cluster's name": (lambda: with_names(OURS, [CLUSTER_URI]), "not the region"),
    "another region of this authority": (
        lambda: with_names(OURS, [x509.UniformResourceIdentifier(str(PeerName(OTHER_REGION)))]),
        "not the region",
    ),
    # Libraries that check host names let this one pass: their error is printed and ignored.
    "no name": (lambda: with_names(OURS, None), "is of nobody"),
    "an empty list of names": (lambda: with_names(OURS, []), "is of nobody"),
    "expired": (lambda: region_credentials_at(timedelta(days=394)), "expired"),
}


def region_credentials_at(ago: timedelta) -> Credentials:
    return OURS.for_listener(next(serials), now() - ago)


@pytest.mark.parametrize("case", WRONG_REGIONS)
@pytest_twisted.ensureDeferred
async def test_a_cluster_speaks_with_none_but_its_region(listen: Listen, case: str) -> None:
    make, said = WRONG_REGIONS[case]
    posing = make()
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey(posing.key)
    context.use_certificate(posing.certificate)
    server = await listen(context)
    with pytest.raises(HandshakeFailed) as caught:
        await server.connect(cluster_context(cluster_credentials(OURS), REGION))
    assert any(part in str(caught.value) for part in said.split("|")), str(caught.value)
    assert server.met == []
    await server.reason()


# ---- enrolment: nothing is known but a fingerprint ----


@pytest_twisted.ensureDeferred
async def test_who_enrols_knows_the_region_by_the_fingerprint_of_its_authority(listen: Listen) -> None:
    server = await listen(enrolment_listener_context(region_credentials(OURS)))
    client = await server.connect(enrolling_context(OURS.fingerprint))
    assert client.peer is not None and client.peer.name == PeerName(REGION)
    await until(lambda: bool(server.met))
    assert server.met[0].peer is None
    client.transport.abortConnection()
    await client.lost


WRONG_ENROLMENTS: dict[str, tuple[Callable[[], Credentials], str]] = {
    "another authority": (lambda: region_credentials(FOREIGN), "another authority"),
    # The right authority's certificate is no secret: whoever has it can show it.
    "the right authority, which has not signed": (
        lambda: with_names(OURS, [REGION_URI], signed_with=FOREIGN),
        "signature is wrong",
    ),
    "a cluster": (lambda: cluster_credentials(OURS), "another purpose"),
    "a cluster's name": (lambda: with_names(OURS, [CLUSTER_URI]), "not a region"),
    "no name": (lambda: with_names(OURS, None), "is of nobody"),
}


@pytest.mark.parametrize("case", WRONG_ENROLMENTS)
@pytest_twisted.ensureDeferred
async def test_who_enrols_gives_its_token_to_no_other(listen: Listen, case: str) -> None:
    make, said = WRONG_ENROLMENTS[case]
    server = await listen(enrolment_listener_context(make()))
    with pytest.raises(HandshakeFailed, match=said):
        await server.connect(enrolling_context(OURS.fingerprint))
    assert server.met == []
    await server.reason()


@pytest_twisted.ensureDeferred
async def test_an_older_tls_is_refused(listen: Listen) -> None:
    server = await listen(region_context(region_credentials(OURS), REGION))
    context = own_context(cluster_credentials(OURS))
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    with pytest.raises(HandshakeFailed):
        await server.connect(context)
    assert "TLS: " in await server.reason()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\0" * 20_000]
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_tls_is_refused(listen: Listen, said: bytes) -> None:
    server = await listen(region_context(region_credentials(OURS), REGION))
    met: list[Talker] = []
    raw: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", server.address.port).connect(
        Factory.forProtocol(lambda: Talker(met))
    )
    raw.transport.write(said)
    await raw.lost
    assert await server.reason()
    assert server.met == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_at_once_is_no_handshake() -> None:
    class Closer(Protocol):
        def connectionMade(self) -> None:
            assert self.transport is not None
            self.transport.loseConnection()

    port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Closer))
    address = TlsAddress("127.0.0.1", port.getHost().port)
    connections = TlsConnections(lambda: enrolling_context(OURS.fingerprint))
    with pytest.raises(HandshakeFailed, match="closed the connection"):
        await address.client_endpoint(reactor, connections).connect(Factory.forProtocol(Protocol))
    await maybeDeferred(port.stopListening)


# ---- names and fingerprints ----


@pytest.mark.parametrize(
    "uri",
    ["", "hostmap://", f"hostmap://{REGION}", f"hostmap://{REGION}/cluster/", f"hostmap://{REGION}/cluster/cl-7",
     f"https://{REGION}/region", f"hostmap://{REGION}/region/", f"hostmap://{REGION}/cluster/cl-0000000007\n"],
)  # fmt: skip
def test_other_uris_are_no_names(uri: str) -> None:
    assert name_of(with_names(OURS, [x509.UniformResourceIdentifier(uri)]).certificate) is None


def test_a_fingerprint_is_read_in_its_usual_spellings() -> None:
    told = fingerprint_of(OURS.certificate)
    digits = told.partition(":")[2]
    spaced = ":".join(digits[i : i + 2] for i in range(0, 64, 2)).upper()
    assert parse_fingerprint(told) == parse_fingerprint(f" SHA256:{spaced} ") == told
    for wrong in ("", digits, f"md5:{digits}", told[:-1], f"{told}0"):
        with pytest.raises(ValueError, match="fingerprint"):
            parse_fingerprint(wrong)


def test_a_key_is_not_shown() -> None:
    assert "key" not in repr(cluster_credentials(OURS))
    assert "key=" not in repr(OURS)
