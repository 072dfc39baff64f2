"""Who this cluster is, once it has enrolled: its key, its certificate, its region, in one file that only it can read.

The key is made here and never leaves the host. One file, replaced as a whole: a key never stands beside another key's
certificate.
"""

import os
import stat
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from pydantic import AfterValidator, Field, ValidationError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from clusterd.daemon.config_file import Strict
from clusterd.daemon.endpoints import TlsAddress, parse_link_address
from clusterd.daemon.handshakes import HandshakeFailed
from clusterd.daemon.mutual_tls import Credentials, TlsConnections, cluster_context, name_of

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700
MAX_BYTES: Final = 1 << 17


class IdentityUnusable(Exception):
    """There is no identity, or it cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`cluster` is the `cl-…` id and `name` its name; `endpoints` are where the region is, as it said itself."""

    region: str
    cluster: str
    name: str
    endpoints: tuple[str, ...]
    credentials: Credentials

    def is_due(self, now: datetime) -> bool:
        """Whether half of the certificate's life is over, so that it is to be renewed."""
        certificate = self.credentials.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return now >= begin + (end - begin) / 2


def _address(text: str) -> str:
    parse_link_address(text)
    return text


class _Stored(Strict):
    region: str
    cluster: str
    name: str
    endpoints: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(min_length=1)
    private_key: str = Field(repr=False)
    certificate: str
    authority: str


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def signing_request(key: EllipticCurvePrivateKey) -> str:
    """A certificate signing request (PEM). It has no name: the region knows who we are."""
    return x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


def with_certificate(
    key: EllipticCurvePrivateKey, certificate_pem: str, authority_pem: str, name: str, endpoints: tuple[str, ...]
) -> Identity:
    """What the region answered, checked against itself. Raises IdentityUnusable."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        authority = x509.load_pem_x509_certificate(authority_pem.encode())
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # cryptography's reasons have no base of their own
        raise IdentityUnusable(f"the certificate cannot be used: {type(error).__name__}: {error}") from None
    owner = name_of(certificate)
    if owner is None or owner.cluster is None:
        raise IdentityUnusable(f"the certificate is of {owner or 'nobody'}, not of a cluster")
    if certificate.public_key() != key.public_key():
        raise IdentityUnusable("the certificate is for another key")
    return Identity(owner.region, owner.cluster, name, endpoints, Credentials(key, certificate, authority))


class IdentityFile:
    """Where the identity is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        return self.path.exists()

    def load(self) -> Identity:
        """Raises IdentityUnusable."""
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(MAX_BYTES)
        except FileNotFoundError:
            raise IdentityUnusable(
                "this cluster has not enrolled: run here what `regionctl clusters enrol NAME` prints on the region"
            ) from None
        except OSError as error:
            raise IdentityUnusable(f"{self.path} cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise IdentityUnusable(f"{self.path} holds a secret but others can open it: chmod 600 {self.path}")
        try:
            stored = _Stored.model_validate_json(content)
            key = load_pem_private_key(stored.private_key.encode(), None)
        except (ValidationError, ValueError, TypeError):
            # Without the cause: it may show the key.
            raise IdentityUnusable(f"{self.path} is damaged: enrol this cluster again") from None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise IdentityUnusable(f"{self.path} is damaged: enrol this cluster again")
        return with_certificate(key, stored.certificate, stored.authority, stored.name, stored.endpoints)

    def save(self, identity: Identity) -> None:
        """Replace the file as a whole, durably. Raises OSError.

        Root writes for whoever owns the state directory: the user that clusterd runs as.
        """
        directory = self.path.parent
        directory.parent.mkdir(parents=True, exist_ok=True)  # the DHCP server reads what is beside us
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        owner = directory.parent.stat()
        credentials = identity.credentials
        stored = _Stored(
            region=identity.region,
            cluster=identity.cluster,
            name=identity.name,
            endpoints=identity.endpoints,
            private_key=credentials.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            certificate=credentials.certificate.public_bytes(Encoding.PEM).decode(),
            authority=credentials.authority.public_bytes(Encoding.PEM).decode(),
        )
        descriptor, temporary = tempfile.mkstemp(dir=directory)  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(stored.model_dump_json(indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if os.geteuid() == 0:
                for path in (directory, temporary):
                    os.chown(path, owner.st_uid, owner.st_gid)
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        entry = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


@implementer(IStreamClientEndpoint)
class EnrolledEndpoint:
    """Connects by TLS with the identity that is in the file at that moment: renewed, perhaps, or enrolled anew."""

    def __init__(self, reactor: object, address: TlsAddress, file: IdentityFile) -> None:
        self._reactor = reactor
        self._address = address
        self._file = file

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            identity = self._file.load()
        except IdentityUnusable as error:
            raise HandshakeFailed(str(error)) from None
        end, now = identity.credentials.certificate.not_valid_after_utc, datetime.now(UTC)
        if end <= now:
            raise HandshakeFailed(
                f"this cluster's certificate was good until {end:%Y-%m-%d}, and the clock here says {now:%Y-%m-%d}: "
                "where the clock is right, enrol this cluster again; its ids stay"
            )
        context = cluster_context(identity.credentials, identity.region)
        return await self._address.client_endpoint(self._reactor, TlsConnections(lambda: context)).connect(factory)
