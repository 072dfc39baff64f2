"""The API over TLS on a real socket: what is spoken, and what happens when the certificate's files change."""

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from clusterd.daemon.config_file import ConfigError
from clusterd.daemon.handshakes import Admission
from clusterd.daemon.mutual_tls import TlsConnections
from regiond.config import HttpsAddress, HttpSettings
from regiond.http.application import Application
from regiond.http.site import ApiSite
from regiond.http.tls import ServerCertificate
from tests.fakes.use_cases import NOW, FakeRegion

reactor: Any = global_reactor


def write_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, put in place as a renewal does: by renaming."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = directory / "api.pem", directory / "api.key"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, content in zip(paths, (certificate.public_bytes(serialization.Encoding.PEM), private), strict=True):
        new = path.with_suffix(".new")
        new.write_bytes(content)
        new.chmod(0o600)
        new.rename(path)
    return paths


def ask(port: int, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str, bytes]:
    """Whose certificate is shown, and the answer to a request."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if version < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain) as wire:
        shown = x509.load_der_x509_certificate(wire.getpeercert(binary_form=True) or b"")
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := wire.recv(65_536):
            answer += part
    return str(shown.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value), answer


@pytest_twisted.ensureDeferred
async def test_tls_is_spoken_and_a_new_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    certificate = ServerCertificate(*write_pair(tmp_path, "first"))
    site = ApiSite(reactor, Application(reactor, FakeRegion().use_cases, now=lambda: NOW), local=False)
    address = HttpsAddress("127.0.0.1", 0)
    port = await address.server_endpoint(reactor, TlsConnections(certificate.context), Admission(reactor)).listen(site)
    number = port.getHost().port  # type: ignore[attr-defined]
    try:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            name, answer = await deferToThread(ask, number, version)
            assert (name, answer[:12]) == ("first", b"HTTP/1.1 200")
        with pytest.warns(DeprecationWarning, match=r"TLSv1_1"), pytest.raises(OSError):  # noqa: PT011 (OpenSSL's own)
            await deferToThread(ask, number, ssl.TLSVersion.TLSv1_1)
        path, _ = write_pair(tmp_path, "second")
        assert (await deferToThread(ask, number))[0] == "second"
        path.write_text("half of a certif")
        assert (await deferToThread(ask, number))[0] == "second"
        path.unlink()
        assert (await deferToThread(ask, number))[0] == "second"
        write_pair(tmp_path, "third")
        assert (await deferToThread(ask, number))[0] == "third"
    finally:
        site.close()
        stopped = port.stopListening()
        assert stopped is not None
        await stopped


def test_what_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, "first")
    kept = key.read_bytes()
    write_pair(tmp_path, "second")
    certificate.rename(tmp_path / "other.pem")
    for content, reason in ((kept, "mismatch"), (b"", "no certificate and its key")):
        key.write_bytes(content)
        with pytest.raises(ConfigError, match=reason):
            ServerCertificate(tmp_path / "other.pem", key)
    with pytest.raises(ConfigError, match="No such file"):
        ServerCertificate(tmp_path / "other.pem", tmp_path / "none.key")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="every user"):
        ServerCertificate(tmp_path / "other.pem", key)


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": ["tls:[::]:5243"]},
        {"listen": ["tls:[::]:5243"], "certificate": "/a"},
        {"certificate": "/a"},
        {"listen": ["tls:api.example.org:5243"], "certificate": "/a", "private_key": "/b"},
        {"listen": ["tcp:192.0.2.1:5243"], "certificate": "/a", "private_key": "/b"},
        {"requests_per_second": 0},
        {"max_connections": 1},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        HttpSettings.model_validate(settings)


def test_settings_of_tls() -> None:
    settings = HttpSettings.model_validate(
        {"listen": ["tls:[::]:5243", "tcp:127.0.0.1:5240"], "certificate": "/a", "private_key": "/b"}
    )
    assert [str(address) for address in settings.listen] == ["tls:[::]:5243", "tcp:127.0.0.1:5240"]
