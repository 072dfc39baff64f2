"""The region's own certificate authority: what a certificate of this region says, and who may have one.

Issuing is pure: time and serial numbers are parameters. The names in a certificate are the region's own; of a signing
request only the key and the proof of having it are taken.

The authority's key is in the database, like everything that all regionds of a region have to agree about: each of them
issues certificates, and whichever came first made the authority. Whoever can read the database can therefore make
itself a cluster, as it could change every host map; a backup of the database is as secret as the database. A
listener's own key is made anew by each start of a regiond and never stored.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clusterd.daemon.mutual_tls import Credentials, PeerName, fingerprint_of
from regiond.domain.errors import EnrolmentRefused

BACKDATED: Final = timedelta(days=7)  # clocks differ
CERTIFICATE_LIFE: Final = timedelta(days=400)
AUTHORITY_LIFE: Final = timedelta(days=40 * 365)
MAX_REQUEST_CHARACTERS: Final = 8192

_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs for one region. `region` is its id, a uuid."""

    region: str
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """What whoever enrols compares."""
        return fingerprint_of(self.certificate)

    @property
    def certificate_pem(self) -> str:
        return to_pem(self.certificate)

    @property
    def key_pem(self) -> str:
        """To be stored; a secret."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def for_cluster(
        self, key: EllipticCurvePublicKey, cluster: str, name: str, serial: int, now: datetime
    ) -> x509.Certificate:
        """A cluster's certificate: 400 days from a week ago. `cluster` is its `cl-…` id; `name` is for people only."""
        return self._issue(key, PeerName(self.region, cluster), name, _CLIENT, serial, now)

    def for_listener(self, serial: int, now: datetime) -> Credentials:
        """A regiond's own, with a new key."""
        key = generate_private_key(SECP256R1())
        name = PeerName(self.region)
        certificate = self._issue(key.public_key(), name, "hostmap region", _SERVER, serial, now)
        return Credentials(key, certificate, self.certificate)

    def _issue(
        self,
        key: EllipticCurvePublicKey,
        name: PeerName,
        common_name: str,
        purpose: x509.ObjectIdentifier,
        serial: int,
        now: datetime,
    ) -> x509.Certificate:
        builder = (
            _builder(common_name, key, serial, now, CERTIFICATE_LIFE)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(name))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return builder.sign(self.key, SHA256())


def make_authority(region: str, serial: int, now: datetime) -> Authority:
    """A new authority with a new key."""
    key = generate_private_key(SECP256R1())
    builder = _builder(f"hostmap region {region}", key.public_key(), serial, now, AUTHORITY_LIFE)
    certificate = (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hostmap region {region}")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return Authority(region, certificate, key)


def load_authority(region: str, certificate_pem: str, key_pem: str) -> Authority:
    """As it was stored. Raises ValueError."""
    key = load_pem_private_key(key_pem.encode(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("the authority's key is of another kind")
    return Authority(region, x509.load_pem_x509_certificate(certificate_pem.encode()), key)


def requested_key(request_pem: str) -> EllipticCurvePublicKey:
    """The key of a certificate signing request whose sender has proved to have it. Raises EnrolmentRefused.

    Whatever else the request asks for (names, purposes, a life) is not looked at.
    """
    if len(request_pem) > MAX_REQUEST_CHARACTERS:
        raise EnrolmentRefused("the signing request is too long")
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        if not request.is_signature_valid:
            raise EnrolmentRefused("the signing request is not signed with its own key")
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise EnrolmentRefused("the signing request cannot be read") from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise EnrolmentRefused("the key has to be of the curve P-256")
    return key


def to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _builder(
    common_name: str, key: EllipticCurvePublicKey, serial: int, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    begin = now - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
