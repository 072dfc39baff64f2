"""An authority, and certificates of every wrong kind, for tests of who may be at the other end."""

from datetime import UTC, datetime, timedelta
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from clusterd.daemon.mutual_tls import Credentials
from regiond.certificates import Authority, make_authority

REGION = "0b1f0e35-5b9a-4f2e-8a63-6a2d6a0c7b11"
OTHER_REGION = "7d1c8f5a-1111-4222-8333-444455556666"
CLUSTER = "cl-0000000007"

serials = count(1000)


def now() -> datetime:
    return datetime.now(UTC)


def authority(region: str = REGION) -> Authority:
    return make_authority(region, next(serials), now())


def key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def cluster_credentials(by: Authority, cluster: str = CLUSTER, at: datetime | None = None) -> Credentials:
    own = key()
    certificate = by.for_cluster(own.public_key(), cluster, "rack-7", next(serials), at or now())
    return Credentials(own, certificate, by.certificate)


def region_credentials(by: Authority) -> Credentials:
    return by.for_listener(next(serials), now())


def expired(by: Authority) -> Credentials:
    return cluster_credentials(by, at=now() - timedelta(days=394))


def with_names(
    by: Authority, names: list[x509.GeneralName] | None, *, signed_with: Authority | None = None
) -> Credentials:
    """A certificate with these alternative names (None: not even the extension) for any purpose.

    `signed_with` signs what claims to be from `by`.
    """
    own = key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(by.certificate.subject)
        .public_key(own.public_key())
        .serial_number(next(serials))
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Credentials(own, builder.sign((signed_with or by).key, SHA256()), by.certificate)
