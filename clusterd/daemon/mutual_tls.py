"""Who may be at the other end of a TLS connection between region and cluster: decided within the handshake.

A certificate has exactly one name, a URI: `hostmap://REGION/region` for a region's listener and
`hostmap://REGION/cluster/CLUSTER` for a cluster, with the ids that the region gave. Each side checks the other's name
in OpenSSL's verify callback, so that a peer of another name never gets as far as a command. Host names are not
checked: a region may move, and several regionds share one name. (Libraries that check host names do so in a callback
whose errors pyOpenSSL prints and ignores: a certificate without any name passes them.)

TLS 1.3 only, since both ends are ours; no session is resumed, so every connection shows a certificate.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from zope.interface import implementer

_NAME = re.compile(r"hostmap://(?P<region>[0-9a-f-]{36})/(?:region|cluster/(?P<cluster>cl-[0-9a-z]{10}))")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")

# X509_verify_cert_error_string(3), in the words of whoever reads the log.
_SELF_SIGNED_IN_CHAIN: Final = 19
_PROBLEMS: Final = {
    7: "its certificate's signature is wrong",
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired",
    18: "its certificate is signed by itself",
    _SELF_SIGNED_IN_CHAIN: "its certificate is from another authority",
    20: "its certificate is from another authority",
    21: "its certificate is from another authority",
    26: "its certificate is for another purpose",
}


class PeerRefused(SSL.Error):
    """The other end is not who it has to be; the text says in what way."""

    def __init__(self, reason: str) -> None:
        super().__init__([("hostmap", "verify", reason)])  # as OpenSSL's own errors, which is how Twisted reads it


@dataclass(frozen=True, slots=True)
class PeerName:
    """What a certificate says of its owner: the region itself, or one of its clusters (`cl-…`)."""

    region: str
    cluster: str | None = None

    def __str__(self) -> str:
        return f"hostmap://{self.region}/" + ("region" if self.cluster is None else f"cluster/{self.cluster}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one end proves itself with, and whom it believes."""

    key: EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    authority: x509.Certificate


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What is needed of a verified peer's certificate. `serial` is hexadecimal."""

    name: PeerName
    common_name: str
    serial: str
    not_before: datetime
    not_after: datetime


def name_of(certificate: x509.Certificate) -> PeerName | None:
    """The certificate's name, or None when it has no name, several, or one of another sort."""
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        return None
    found = _NAME.fullmatch(names[0].value)
    return None if found is None else PeerName(found["region"], found["cluster"])


def fingerprint_of(certificate: x509.Certificate) -> str:
    """`sha256:` and 64 hexadecimal digits of the whole certificate."""
    return f"sha256:{certificate.fingerprint(SHA256()).hex()}"


def parse_fingerprint(text: str) -> str:
    """The text in lower case without colons between digits. Raises ValueError for what is no fingerprint."""
    kind, _, digits = text.strip().lower().partition(":")
    fingerprint = f"{kind}:{digits.replace(':', '')}"
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError("a fingerprint is sha256: and 64 hexadecimal digits")
    return fingerprint


def serial_of(certificate: x509.Certificate) -> str:
    """As it is stored and shown."""
    return f"{certificate.serial_number:x}"


def peer_certificate(transport: Any) -> PeerCertificate | None:
    """The verified certificate at the other end of a connection; None where there is none."""
    shown = transport.getPeerCertificate() if hasattr(transport, "getPeerCertificate") else None
    certificate = None if shown is None else shown.to_cryptography()
    name = None if certificate is None else name_of(certificate)
    if certificate is None or name is None:
        return None
    common_names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return PeerCertificate(
        name,
        str(common_names[0].value) if common_names else "",
        serial_of(certificate),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


# ---- the three kinds of ends ----


def region_context(credentials: Credentials, region: str) -> SSL.Context:
    """A region's listener for clusters: lets in only this region's clusters."""

    def is_welcome(name: PeerName) -> bool:
        return name.region == region and name.cluster is not None

    context = _own_context(credentials)
    _demand(context, _Check(is_welcome, "no cluster of this region"))
    return context


def cluster_context(credentials: Credentials, region: str) -> SSL.Context:
    """A cluster's connection to its region: speaks with no other."""
    context = _own_context(credentials)
    _demand(context, _Check(lambda name: name == PeerName(region), f"not the region {region}"))
    return context


def enrolment_listener_context(credentials: Credentials) -> SSL.Context:
    """A region's listener for who has no certificate yet. It shows the authority, for its fingerprint."""
    context = _own_context(credentials)
    context.add_extra_chain_cert(credentials.authority)
    return context


def enrolling_context(fingerprint: str) -> SSL.Context:
    """Somebody who knows nothing of the region but the fingerprint of its authority."""
    context = _context()
    _demand(context, _Check(lambda name: name.cluster is None, "not a region", fingerprint))
    return context


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class TlsConnections:
    """What Twisted asks for each connection; the context is looked up anew, since certificates are renewed."""

    def __init__(self, context: Callable[[], SSL.Context]) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context(), None)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return SSL.Connection(self._context(), None)


class _Check:
    """OpenSSL's verify callback, for each certificate of a chain from the authority down."""

    def __init__(self, is_right: Callable[[PeerName], bool], wrong: str, fingerprint: str | None = None) -> None:
        self._is_right = is_right
        self._wrong = wrong
        self._fingerprint = fingerprint

    def __call__(self, connection: SSL.Connection, shown: Any, problem: int, depth: int, holds: int) -> bool:
        # What is raised here ends the handshake and comes out of it; False alone would not say why.
        try:
            certificate = shown.to_cryptography()
        except Exception as error:  # OpenSSL takes certificates, of whoever comes, that cryptography does not
            raise PeerRefused("its certificate cannot be read") from error
        if not holds and not self._is_the_authority(certificate, problem):
            raise PeerRefused(_PROBLEMS.get(problem, f"its certificate cannot be verified (OpenSSL error {problem})"))
        if depth == 0:
            name = name_of(certificate)
            if name is None or not self._is_right(name):
                raise PeerRefused(f"it is {self._wrong}: its certificate is of {name or 'nobody'}")
        return True

    def _is_the_authority(self, certificate: x509.Certificate, problem: int) -> bool:
        """The signatures below it are verified after this, with its key."""
        return (
            self._fingerprint is not None
            and problem == _SELF_SIGNED_IN_CHAIN
            and fingerprint_of(certificate) == self._fingerprint
        )


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    return context


def _own_context(credentials: Credentials) -> SSL.Context:
    context = _context()
    context.use_privatekey(credentials.key)
    context.use_certificate(credentials.certificate)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(X509.from_cryptography(credentials.authority))
    return context


def _demand(context: SSL.Context, check: _Check) -> None:
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)


def words_of(error: BaseException) -> str:
    """What went wrong with a TLS connection: OpenSSL's reasons, or the error's own text."""
    if not isinstance(error, SSL.Error):
        return str(error)
    reasons = ", ".join(str(entry[-1]) for entry in (error.args[0] if error.args else ()) if isinstance(entry, tuple))
    return reasons if isinstance(error, PeerRefused) else f"TLS: {reasons or 'failed'}"
