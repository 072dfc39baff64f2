"""Where the region says that it is: followed, kept for the next start, and never worse than what was known."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clusterd.daemon.endpoints import TlsAddress
from clusterd.region_link.addresses import RegionAddresses
from clusterd.region_link.identity import Identity, IdentityFile
from tests import certificates
from tests.clusterd.log_events import logged

BEFORE = "tcp:region.example:5250"


@dataclass
class Kept:
    file: IdentityFile
    moves: list[Sequence[TlsAddress]] = field(default_factory=list)

    @property
    def addresses(self) -> RegionAddresses:
        return RegionAddresses(self.file, self.moves.append)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    made = Kept(IdentityFile(tmp_path / "identity" / "identity.json"))
    credentials = certificates.cluster_credentials(certificates.authority())
    made.file.save(Identity(certificates.REGION, certificates.CLUSTER, "rack-7", (BEFORE,), credentials))
    return made


def test_what_is_known_already_is_not_written(kept: Kept) -> None:
    before = kept.file.path.stat().st_ino
    with logged() as events:
        kept.addresses.told(BEFORE)
    assert (kept.file.path.stat().st_ino, kept.moves, events) == (before, [], [])


def test_what_is_new_is_followed_and_kept(kept: Kept) -> None:
    identity = kept.file.load()
    with logged() as events:
        kept.addresses.told("tcp:a.example:5250 tcp:[2001:db8::1]:5250")
    assert kept.moves == [(TlsAddress("a.example", 5250), TlsAddress("2001:db8::1", 5250))]
    after = kept.file.load()
    assert after.endpoints == ("tcp:a.example:5250", "tcp:[2001:db8::1]:5250")
    assert (after.cluster, after.credentials.certificate) == (identity.cluster, identity.credentials.certificate)
    assert stat.S_IMODE(kept.file.path.stat().st_mode) == 0o600
    assert [(e["event"], e["endpoints"], e["followed"]) for e in events] == [
        ("region.endpoints-changed", list(after.endpoints), True)
    ]


def test_what_the_configuration_says_is_the_last_word(kept: Kept) -> None:
    with logged() as events:
        RegionAddresses(kept.file, None).told("tcp:a.example:5250")
    assert kept.file.load().endpoints == ("tcp:a.example:5250",)
    assert [event["followed"] for event in events] == [False]


@pytest.mark.parametrize(
    "said", ["", "  ", "unix:/run/x", "tcp:a.example:0", "tcp:a.example", " ".join(f"tcp:h{n}:1" for n in range(33))]
)
def test_what_nobody_can_connect_to_changes_nothing(kept: Kept, said: str) -> None:
    with logged() as events:
        kept.addresses.told(said)
    assert kept.file.load().endpoints == (BEFORE,) and kept.moves == []
    assert [event["event"] for event in events] == ["region.endpoints-not-kept"]


def test_what_cannot_be_kept_is_not_followed(kept: Kept) -> None:
    """Or the next start would look for the region somewhere else than this one."""
    kept.file.path.unlink()
    with logged() as events:
        kept.addresses.told("tcp:a.example:5250")
    assert kept.moves == []
    assert [(event["event"], "not enrolled" in event["reason"]) for event in events] == [
        ("region.endpoints-not-kept", True)
    ]
