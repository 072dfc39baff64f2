"""What a cluster does with its identity before it speaks to anybody."""

from pathlib import Path

from twisted.internet.protocol import Factory

from clusterd.daemon.endpoints import TlsAddress
from clusterd.daemon.handshakes import HandshakeFailed
from clusterd.region_link.identity import EnrolledEndpoint, Identity, IdentityFile
from tests import certificates
from tests.clusterd.links import Outcome


def test_a_certificate_that_has_expired_is_said_with_the_date_that_the_clock_shows(tmp_path: Path) -> None:
    """One whose clock is wrong need not be enrolled again, and nobody is connected to for it."""
    file = IdentityFile(tmp_path / "identity" / "identity.json")
    credentials = certificates.expired(certificates.authority())
    file.save(Identity(certificates.REGION, certificates.CLUSTER, "rack-7", ("tcp:region.example:5250",), credentials))
    before = certificates.now()
    connecting = Outcome(EnrolledEndpoint(None, TlsAddress("region.example", 5250), file).connect(Factory()))
    assert isinstance(connecting.error, HandshakeFailed)
    said = str(connecting.error)
    end = credentials.certificate.not_valid_after_utc
    days = {f"{day:%Y-%m-%d}" for day in (before, certificates.now())}
    assert any(f"good until {end:%Y-%m-%d}, and the clock here says {day}" in said for day in days)
    assert "enrol this cluster again" in said
