"""What a cluster does with its identity before it speaks to anybody."""

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory

from clusterd.daemon.endpoints import TlsAddress
from clusterd.daemon.handshakes import HandshakeFailed
from clusterd.region_link.identity import EnrolledEndpoint, Identity, IdentityFile, IdentityUnusable
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


@pytest.mark.parametrize("endpoints", [[], ["region.example:5250"], ["tcp:region.example:5250", 7]])
def test_a_file_that_does_not_say_where_the_region_is_is_damaged(tmp_path: Path, endpoints: list[Any]) -> None:
    """Found out at the start: nobody would tell later that there is nothing to connect to."""
    file = IdentityFile(tmp_path / "identity" / "identity.json")
    credentials = certificates.cluster_credentials(certificates.authority())
    file.save(Identity(certificates.REGION, certificates.CLUSTER, "rack-7", ("tcp:region.example:5250",), credentials))
    assert file.load().endpoints == ("tcp:region.example:5250",)
    file.path.write_text(json.dumps({**json.loads(file.path.read_text()), "endpoints": endpoints}))
    with pytest.raises(IdentityUnusable, match="is damaged: enrol this cluster again"):
        file.load()
