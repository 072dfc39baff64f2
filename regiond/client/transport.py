"""How requests travel on Twisted: to a URL, with its certificate checked, or over the region's UNIX socket."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, CertificateOptions, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from regiond.client.answers import Unreachable, parse_url

CONNECTIONS: Final = 8
MAX_ANSWER_BYTES: Final = 64 << 20
BUFFERED_PIECES: Final = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Connections to one region, kept open between requests. Each method raises Unreachable and nothing else."""

    def __init__(self, reactor: Any, url: str | None, *, socket: str | None = None, ca_file: str | None = None) -> None:
        if (url is None) == (socket is None):
            raise ValueError("give either a URL or a socket")
        self._reactor = reactor
        self._where = f"unix:{socket}" if url is None else parse_url(url)
        self._base = "http://localhost" if url is None else self._where
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = CONNECTIONS
        self._pool.retryAutomatically = False  # what may be repeated is decided elsewhere
        if socket is None:
            agent = Agent(reactor, _CheckedTls(ca_file), pool=self._pool)
        else:
            agent = Agent.usingEndpointFactory(reactor, _Socket(reactor, socket), pool=self._pool)
        self._http = HTTPClient(agent)

    def __str__(self) -> str:
        return self._where

    async def close(self) -> None:
        """Hang up. Requests that are under way go on."""
        await self._pool.closeCachedConnections()

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answered:
        """The answer, as a whole, within `timeout` seconds."""
        collected = bytearray()

        async def ask() -> Answered:
            response = await self._send(method, target, headers, body)
            ended: Deferred[None] = Deferred()
            response.deliverBody(_Collecting(collected, ended))
            await ended
            return Answered(response.code, _headers(response), bytes(collected))

        answered: Answered = await self._bounded(ask(), timeout, method)
        return answered

    async def stream(
        self, target: str, headers: Mapping[str, str], timeout: float
    ) -> tuple[Answered, AsyncIterator[bytes]]:
        """The head of an answer (with the body of a refusal), and its body as it comes: no faster than it is taken.

        `timeout` bounds the wait for the head and for each piece.
        """
        response = await self._bounded(self._send("GET", target, headers, None), timeout, "GET")
        pieces = _Pieces()
        response.deliverBody(pieces)

        async def each() -> AsyncIterator[bytes]:
            try:
                while (piece := await self._bounded(pieces.next(), timeout, "GET")) is not None:
                    yield piece
            finally:
                pieces.stop()

        head = Answered(response.code, _headers(response), b"")
        if response.code < 300:
            return head, each()
        body = b"".join([piece async for piece in each()])
        return Answered(response.code, head.headers, body), each()

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        sent: dict[bytes | str, bytes | str] = dict(headers.items())
        return await self._http.request(
            method, self._base + target, headers=sent, data=body, allow_redirects=False, unbuffered=True
        )

    async def _bounded(self, work: Any, timeout: float, method: str) -> Any:
        waiting = Deferred.fromCoroutine(work)
        waiting.addTimeout(timeout, self._reactor)
        try:
            return await waiting
        except (DeferredTimeout, CancelledError) as error:
            reason: str = "it took too long"
            cause: Exception = error
        except Exception as error:
            reason, cause = _reason(error), error
        done = "" if method == "GET" else "; it may have been carried out"
        raise Unreachable(f"no answer from {self._where}: {reason}{done}") from cause


def _headers(response: Any) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }


def _reason(error: Exception) -> str:
    """What is behind the errors of a connection, which carry others."""
    failures: Sequence[Failure] = getattr(error, "reasons", ())
    told = "; ".join(str(failure.value) or type(failure.value).__name__ for failure in failures)
    return told or str(error) or type(error).__name__


class _Collecting(Protocol):
    """A body of at most MAX_ANSWER_BYTES."""

    def __init__(self, collected: bytearray, ended: "Deferred[None]") -> None:
        self._collected = collected
        self._ended = ended

    def dataReceived(self, data: bytes) -> None:
        self._collected += data
        if len(self._collected) > MAX_ANSWER_BYTES:
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ended.called:
            return
        if reason.check(ResponseDone):
            self._ended.callback(None)
        else:
            self._ended.errback(reason)


class _Pieces(Protocol):
    """A body piece by piece; the connection is not read while BUFFERED_PIECES wait to be taken."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._waiting: Deferred[bytes | None] | None = None
        self._end: Failure | None = None
        self._paused = False

    async def next(self) -> bytes | None:
        """The next piece, None at the end. Raises what broke it off."""
        if self._pieces:
            piece = self._pieces.popleft()
            self._pause(False)
            return piece
        if self._end is None:
            self._waiting = Deferred()
            return await self._waiting
        if not self._end.check(ResponseDone):
            self._end.raiseException()
        return None

    def stop(self) -> None:
        """Nobody takes any more."""
        if self._end is None and self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(data)
            return
        self._pieces.append(data)
        self._pause(len(self._pieces) >= BUFFERED_PIECES)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            if reason.check(ResponseDone):
                waiting.callback(None)
            else:
                waiting.errback(reason)

    def _pause(self, paused: bool) -> None:
        transport: Any = self.transport
        if paused != self._paused and self._end is None:
            self._paused = paused
            (transport.pauseProducing if paused else transport.resumeProducing)()


@implementer(IAgentEndpointFactory)
class _Socket:
    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path

    def endpointForURI(self, uri: Any) -> UNIXClientEndpoint:
        return UNIXClientEndpoint(self._reactor, self._path)


@implementer(IPolicyForHTTPS)
class _CheckedTls:
    """Whose certificates are believed: those of the authorities in `ca_file`, or that the operating system knows."""

    def __init__(self, ca_file: str | None) -> None:
        self._trust: Any = platformTrust()
        if ca_file is not None:
            found = x509.load_pem_x509_certificates(Path(ca_file).read_bytes())
            self._trust = trustRootFromCertificates([Certificate(X509.from_cryptography(each)) for each in found])

    def creatorForNetloc(self, hostname: bytes, port: int) -> "_Creator":
        return _Creator(hostname.decode("ascii"), self._trust)


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """The host's name is checked in OpenSSL's verify callback, whose word counts: Twisted's own check is made in
    another one, in which what a certificate without any name raises is printed and ignored.
    """

    def __init__(self, host: str, trust: Any) -> None:
        self._host = host.strip("[]")
        self._context = CertificateOptions(trustRoot=trust).getContext()
        self._context.set_verify(SSL.VERIFY_PEER, self._is_good)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection

    def _is_good(self, _: SSL.Connection, shown: X509, problem: int, depth: int, is_trusted: int) -> bool:
        if depth or problem or not is_trusted:
            return bool(is_trusted)
        verify: Callable[[x509.Certificate, str], None] = (
            verify_certificate_ip_address if _is_address(self._host) else verify_certificate_hostname
        )
        try:
            verify(shown.to_cryptography(), self._host)
        except Exception:
            return False  # whatever is wrong with it: it is not good
        return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
