"""The store: equal to a dictionary whatever happens to it, and never less than what was acknowledged."""

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clusterd.convergence.acceptance import Announced, MapChange, Origin
from clusterd.host_maps.schema import MIGRATIONS, StoreFailed, StoreUnusable
from clusterd.host_maps.store import MAX_LISTED_CHANGES, HostMapStore
from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import (
    DigestMismatch,
    GenerationMismatch,
    MalformedArgument,
    SnapshotOlder,
    UnknownTransfer,
)
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

HERE = Origin("region-1", "cluster-1", "history-1")
CIDR = "10.0.0.0/8"


def host_map(number: int, address: int | None = None, hostname: str | None = None) -> HostMap:
    last = number if address is None else address
    identifier = Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))
    return HostMap(identifier, f"10.{last >> 16}.{last >> 8 & 255}.{last & 255}", hostname)


def announced(
    to_generation: int,
    host_maps: Any,
    *,
    since: int | None = None,
    subnet: str = "subnet-1",
    origin: Origin = HERE,
    cidr: str = CIDR,
) -> Announced:
    return Announced(origin, subnet, cidr, since, to_generation, digest_of(host_maps))


def accept_snapshot(store: HostMapStore, head: Announced, host_maps: list[HostMap]) -> Any:
    store.begin_transfer(head, len(host_maps))
    for start in range(0, len(host_maps), 500):
        store.add_page(head.subnet, head.to_generation, host_maps[start : start + 500], ())
    return store.commit_transfer(head.subnet, head.to_generation)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accepted" / "host-maps.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[HostMapStore]:
    opened = HostMapStore.open(path)
    yield opened
    opened.close()


# ---- any sequence of operations equals a dictionary ----

small_maps = st.builds(host_map, st.integers(1, 12), st.integers(1, 40), st.sampled_from([None, "a", "b"]))
small_sets = st.lists(small_maps, max_size=12, unique_by=lambda m: m.identifier)


class StoreMachine(RuleBasedStateMachine):
    """Deltas, transfers, forgets and restarts, right and wrong ones, against a dictionary per subnet."""

    subnets = st.sampled_from(["subnet-1", "subnet-2", "subnet-3"])

    @initialize(directory=st.uuids())
    def begin(self, directory: Any) -> None:
        base = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
        self.directory = Path(base) / f"hostmap-store-{os.getpid()}-{directory}"
        self.path = self.directory / "store.sqlite"
        self.store = HostMapStore.open(self.path)
        self.model: dict[str, dict[Identifier, HostMap]] = {}
        self.generations: dict[str, tuple[int, int]] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            for file in self.directory.iterdir():
                file.unlink()
            self.directory.rmdir()

    def cidr(self, subnet: str) -> str:
        return f"10.{subnet[-1]}.0.0/16"

    @rule(subnet=subnets, upserts=small_sets, removed=st.lists(st.integers(1, 12), max_size=4), step=st.integers(1, 3))
    def delta(self, subnet: str, upserts: list[HostMap], removed: list[int], step: int) -> None:
        known, since = subnet in self.model, self.generations.get(subnet, (0, 0))[0]
        removals = [host_map(number).identifier for number in removed]
        before = dict(self.model.get(subnet, {}))
        after = {key: one for key, one in before.items() if key not in removals} | {m.identifier: m for m in upserts}
        head = announced(since + step, after.values(), since=since, subnet=subnet, cidr=self.cidr(subnet))
        accepted = self.store.accept_delta(head, upserts, removals)
        self.model[subnet] = after
        self.generations[subnet] = (since + step, self.generations.get(subnet, (0, 0))[1])
        assert set(accepted.changes) == {
            MapChange(key, before.get(key), after.get(key))
            for key in before.keys() | after.keys()
            if before.get(key) != after.get(key)
        }
        assert accepted.complete == known

    @rule(subnet=subnets, upserts=small_sets, wrong=st.integers(1, 5))
    def refused_delta(self, subnet: str, upserts: list[HostMap], wrong: int) -> None:
        since = self.generations.get(subnet, (0, 0))[0]
        bad_digest = Announced(HERE, subnet, self.cidr(subnet), since, since + 1, wrong)
        after = self.model.get(subnet, {}) | {m.identifier: m for m in upserts}
        if digest_of(after.values()) != wrong:
            with pytest.raises(DigestMismatch):
                self.store.accept_delta(bad_digest, upserts, ())
        with pytest.raises(GenerationMismatch) as caught:
            self.store.accept_delta(
                announced(since + 9, after.values(), since=since + wrong, subnet=subnet), upserts, ()
            )
        assert caught.value.accepted == since

    @rule(subnet=subnets, host_maps=small_sets, step=st.integers(0, 3))
    def snapshot(self, subnet: str, host_maps: list[HostMap], step: int) -> None:
        accepted, applied = self.generations.get(subnet, (0, 0))
        before = self.model.get(subnet, {})
        head = announced(accepted + step, host_maps, subnet=subnet, cidr=self.cidr(subnet))
        accept_snapshot(self.store, head, host_maps)
        self.model[subnet] = {m.identifier: m for m in host_maps}
        redefined = accepted + step <= applied and set(before.values()) != set(host_maps)
        self.generations[subnet] = (accepted + step, 0 if redefined else applied)

    @rule(subnet=subnets, upserts=small_sets, removed=st.lists(st.integers(1, 12), max_size=4, unique=True))
    def delta_in_pages(self, subnet: str, upserts: list[HostMap], removed: list[int]) -> None:
        accepted, applied = self.generations.get(subnet, (0, 0))
        named = {m.identifier for m in upserts}
        removals = [one for one in (host_map(number).identifier for number in removed) if one not in named]
        after = {k: m for k, m in self.model.get(subnet, {}).items() if k not in removals}
        after |= {m.identifier: m for m in upserts}
        head = announced(accepted + 1, after.values(), since=accepted, subnet=subnet, cidr=self.cidr(subnet))
        self.store.begin_transfer(head, len(upserts) + len(removals))
        self.store.add_page(subnet, accepted + 1, (), removals)
        for one in upserts:
            self.store.add_page(subnet, accepted + 1, (one,), ())
        self.store.commit_transfer(subnet, accepted + 1)
        self.model[subnet] = after
        self.generations[subnet] = (accepted + 1, applied)

    @rule(subnet=subnets, host_maps=small_sets)
    def unfinished_transfer(self, subnet: str, host_maps: list[HostMap]) -> None:
        generation = self.generations.get(subnet, (0, 0))[0] + 1
        self.store.begin_transfer(announced(generation, host_maps, subnet=subnet), len(host_maps) + 1)
        self.store.add_page(subnet, generation, host_maps, ())

    @rule(subnet=subnets)
    def older_snapshot(self, subnet: str) -> None:
        accepted = self.generations.get(subnet, (0, 0))[0]
        if accepted:
            with pytest.raises(SnapshotOlder):
                self.store.begin_transfer(announced(accepted - 1, (), subnet=subnet), 0)

    @rule(subnet=subnets)
    def forget(self, subnet: str) -> None:
        self.store.forget(subnet)
        self.store.drop_forgotten([subnet])
        self.model.pop(subnet, None)
        self.generations.pop(subnet, None)

    @rule()
    def apply(self) -> None:
        moved = self.store.record_applied(self.store.subnets())
        assert {r.subnet for r in moved} == {
            s for s, (accepted, applied) in self.generations.items() if applied < accepted
        }
        self.generations = {s: (accepted, accepted) for s, (accepted, _) in self.generations.items()}

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = HostMapStore.open(self.path)

    @invariant()
    def it_equals_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        held = {record.subnet: (record, set(host_maps)) for record, host_maps in self.store.contents()}
        assert held.keys() == self.model.keys()
        for subnet, (record, host_maps) in held.items():
            assert host_maps == set(self.model[subnet].values())
            assert record.digest == digest_of(host_maps)
            assert record.host_maps == len(host_maps)
            assert (record.accepted_generation, record.applied_generation) == self.generations[subnet]


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStoreEqualsADictionary = StoreMachine.TestCase


# ---- guards ----


def test_a_resent_delta_is_told_where_the_cluster_is(store: HostMapStore) -> None:
    head = announced(1, [host_map(1)], since=0)
    store.accept_delta(head, [host_map(1)], ())
    with pytest.raises(GenerationMismatch) as caught:
        store.accept_delta(head, [host_map(1)], ())
    assert caught.value.accepted == 1


def test_a_delta_to_an_earlier_generation_is_malformed(store: HostMapStore) -> None:
    store.accept_delta(announced(5, (), since=0), (), ())
    with pytest.raises(MalformedArgument):
        store.accept_delta(announced(4, (), since=5), (), ())


def test_a_transfer_is_checked_again_when_it_is_committed(store: HostMapStore) -> None:
    store.begin_transfer(announced(1, [host_map(1)], since=0), 1)
    store.add_page("subnet-1", 1, [host_map(1)], ())
    store.accept_delta(announced(1, [host_map(2)], since=0), [host_map(2)], ())
    with pytest.raises(GenerationMismatch):
        store.commit_transfer("subnet-1", 1)
    assert store.host_maps("subnet-1") == {host_map(2)}


def test_pages_and_commits_need_their_transfer(store: HostMapStore) -> None:
    with pytest.raises(UnknownTransfer):
        store.add_page("subnet-1", 1, [host_map(1)], ())
    store.begin_transfer(announced(1, [host_map(1)]), 1)
    with pytest.raises(UnknownTransfer):
        store.add_page("subnet-1", 2, [host_map(1)], ())
    store.begin_transfer(announced(2, [host_map(1)]), 1)
    with pytest.raises(UnknownTransfer):
        store.commit_transfer("subnet-1", 1)


def test_a_page_that_comes_twice_counts_once(store: HostMapStore) -> None:
    maps = [host_map(1), host_map(2)]
    store.begin_transfer(announced(1, maps), 2)
    for _ in range(3):
        store.add_page("subnet-1", 1, maps, ())
    assert store.commit_transfer("subnet-1", 1).record.host_maps == 2


def test_more_rows_than_announced_end_the_transfer(store: HostMapStore) -> None:
    store.begin_transfer(announced(1, ()), 1)
    with pytest.raises(UnknownTransfer, match="announced"):
        store.add_page("subnet-1", 1, [host_map(1), host_map(2)], ())
    with pytest.raises(UnknownTransfer):
        store.commit_transfer("subnet-1", 1)


def test_a_transfer_with_rows_missing_is_refused_and_over(store: HostMapStore) -> None:
    store.begin_transfer(announced(1, [host_map(1), host_map(2)]), 2)
    store.add_page("subnet-1", 1, [host_map(1)], ())
    with pytest.raises(DigestMismatch, match="1 of 2"):
        store.commit_transfer("subnet-1", 1)
    with pytest.raises(UnknownTransfer):
        store.commit_transfer("subnet-1", 1)
    assert store.subnets() == ()


def test_transfers_do_not_survive_a_restart(path: Path) -> None:
    store = HostMapStore.open(path)
    store.begin_transfer(announced(1, [host_map(1)]), 1)
    store.add_page("subnet-1", 1, [host_map(1)], ())
    store.close()
    store = HostMapStore.open(path)
    with pytest.raises(UnknownTransfer):
        store.commit_transfer("subnet-1", 1)
    store.close()


def test_a_large_transfer_does_not_list_its_changes(store: HostMapStore) -> None:
    many = [host_map(number) for number in range(1, MAX_LISTED_CHANGES + 2)]
    store.accept_delta(announced(1, (), since=0), (), ())
    accepted = accept_snapshot(store, announced(2, many), many)
    assert not accepted.complete and accepted.record.host_maps == len(many)
    accepted = accept_snapshot(store, announced(3, many[1:]), many[1:])
    assert accepted.changes == (MapChange(many[0].identifier, many[0], None),)


def test_a_snapshot_of_the_same_generation_and_another_set_is_not_applied(store: HostMapStore) -> None:
    store.accept_delta(announced(1, [host_map(1)], since=0), [host_map(1)], ())
    before = store.subnets()
    store.record_applied(before)
    accept_snapshot(store, announced(1, [host_map(2)]), [host_map(2)])
    assert store.subnets()[0].applied_generation == 0
    assert store.record_applied(before) == ()


def test_what_was_applied_of_another_past_says_nothing_of_the_one_that_replaced_it(store: HostMapStore) -> None:
    """An apply of the former set ends when the new one, in which a removal has a lower number, is on disk already."""
    store.accept_delta(announced(5, [host_map(1)], since=0), [host_map(1)], ())
    before = store.subnets()
    later = Origin("region-1", "cluster-1", "history-2")
    accept_snapshot(store, announced(7, [host_map(2)], origin=later), [host_map(2)])
    assert store.record_applied(before) == ()
    assert store.subnets()[0].applied_generation == 0


# ---- origins, see Note [Former origin] ----


@pytest.mark.parametrize(
    "other",
    [
        Origin("region-2", "cluster-1", "history-1"),
        Origin("region-1", "cluster-2", "history-1"),
        Origin("region-1", "cluster-1", "history-2"),
    ],
)
def test_what_another_origin_left_stays_until_it_is_replaced(store: HostMapStore, other: Origin) -> None:
    for subnet, network in (("subnet-1", "10.1.0.0/16"), ("subnet-2", "10.2.0.0/16"), ("subnet-3", "10.3.0.0/16")):
        head = announced(9, [host_map(1)], since=0, subnet=subnet, cidr=network)
        store.accept_delta(head, [host_map(1)], ())
    with pytest.raises(GenerationMismatch) as caught:  # counts as holding nothing
        store.accept_delta(announced(10, (), since=9, origin=other, cidr="10.1.0.0/16"), (), ())
    assert caught.value.accepted == 0
    # The same id, at a lower generation; and the network of subnet-2 under an id of the other region.
    accept_snapshot(store, announced(2, [host_map(5)], origin=other, cidr="10.1.0.0/16"), [host_map(5)])
    dropped = accept_snapshot(
        store, announced(3, [host_map(6)], subnet="subnet-9", origin=other, cidr="10.2.0.0/16"), [host_map(6)]
    ).dropped
    assert dropped == ("subnet-2",)
    assert store.stamp() == other
    assert {r.subnet: (r.origin, r.accepted_generation, r.applied_generation) for r in store.subnets()} == {
        "subnet-1": (other, 2, 0),
        "subnet-3": (HERE, 9, 0),
        "subnet-9": (other, 3, 0),
    }
    assert store.host_maps("subnet-1") == {host_map(5)}


def test_a_refused_change_of_another_origin_leaves_everything(store: HostMapStore) -> None:
    store.accept_delta(announced(9, [host_map(1)], since=0), [host_map(1)], ())
    other = Origin("region-2", "cluster-1", "history-1")
    with pytest.raises(DigestMismatch):
        store.accept_delta(Announced(other, "subnet-1", CIDR, 0, 1, 123), [host_map(2)], ())
    assert store.stamp() == HERE and store.host_maps("subnet-1") == {host_map(1)}


def test_a_forgotten_subnet_stays_known_until_the_server_is_free_of_it(path: Path) -> None:
    store = HostMapStore.open(path)
    store.accept_delta(announced(1, [host_map(1)], since=0), [host_map(1)], ())
    assert store.forget("unknown") is None
    record = store.forget("subnet-1")
    assert record is not None and record.forgetting and record.cidr == CIDR
    store.close()
    store = HostMapStore.open(path)
    assert [one.forgetting for one in store.subnets()] == [True] and not store.host_maps("subnet-1")
    store.accept_delta(announced(3, [host_map(2)], since=0), [host_map(2)], ())
    store.drop_forgotten(["subnet-1"])
    assert store.host_maps("subnet-1") == {host_map(2)}
    store.close()


# ---- the file ----


def test_the_file_is_private(path: Path, store: HostMapStore) -> None:
    store.accept_delta(announced(1, (), since=0), (), ())
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_one_process_has_it(path: Path, store: HostMapStore) -> None:
    program = "import sys, pathlib, clusterd.host_maps.store as s; s.HostMapStore.open(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(path)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode != 0 and "in use by another process" in second.stderr.splitlines()[-1]
    with pytest.raises(StoreUnusable, match="in use by another process"):
        HostMapStore.open(path)


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_refused_with_advice(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match=r"damaged.*move it aside.*region sends everything"):
        HostMapStore.open(path)
    assert path.read_bytes() == content


def test_damage_inside_is_found_at_start(path: Path) -> None:
    store = HostMapStore.open(path)
    many = [host_map(number, hostname=f"host-{number}") for number in range(1, 3000)]
    store.accept_delta(announced(1, many, since=0), many, ())
    store.close()
    with path.open("r+b") as file:
        for page in range(4, path.stat().st_size // 4096 - 1, 3):
            file.seek(page * 4096)
            file.write(os.urandom(600))
    with pytest.raises(StoreUnusable, match="damaged"):
        HostMapStore.open(path)


def test_who_had_which_address_is_kept_until_the_lease_is_ended_or_it_is_held_again(store: HostMapStore) -> None:
    three = [host_map(number, hostname="name") for number in (1, 2, 3)]
    store.accept_delta(announced(1, three, since=0), three, ())
    named = [host_map(1, hostname="other"), host_map(2, address=9), three[2]]
    store.accept_delta(announced(2, named, since=1), named[:2], ())
    assert store.former_leases() == {host_map(2)}
    accept_snapshot(store, announced(3, [host_map(2)]), [host_map(2)])
    assert store.former_leases() == {host_map(1), host_map(2, address=9), host_map(3)}
    store.record_applied((), [host_map(1), host_map(4)])
    assert store.former_leases() == {host_map(2, address=9), host_map(3)}
    store.forget("subnet-1")
    assert store.former_leases() == {host_map(2), host_map(2, address=9), host_map(3)}


def test_what_another_past_had_and_the_new_one_has_not_may_have_left_leases(store: HostMapStore) -> None:
    store.accept_delta(announced(4, [host_map(1), host_map(2)], since=0), [host_map(1), host_map(2)], ())
    later = Origin("region-1", "cluster-1", "history-2")
    store.accept_delta(announced(1, [host_map(2)], since=0, subnet="subnet-9", origin=later), [host_map(2)], ())
    assert store.former_leases() == {host_map(1)}


def test_the_file_of_an_older_version_is_brought_up_to_date(path: Path) -> None:
    HostMapStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE former_lease")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = HostMapStore.open(path)
    assert store.former_leases() == frozenset()
    store.close()


def test_the_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    HostMapStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreUnusable, match="newer clusterd"):
        HostMapStore.open(path)


def test_a_place_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        HostMapStore.open(tmp_path / "file" / "store.sqlite")
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        HostMapStore.open(tmp_path.joinpath(*(["a" * 200] * 3), "store.sqlite"))  # more than SQLite takes
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "file")
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        HostMapStore.open(tmp_path / "link.sqlite")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to a growing file: the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_leaves_nothing_half_done(path: Path) -> None:
    store = HostMapStore.open(path)
    store.accept_delta(announced(1, [host_map(1)], since=0), [host_map(1)], ())
    many = [host_map(number, hostname=f"a-long-host-name-{number}") for number in range(1, 5000)]
    room = max(file.stat().st_size for file in path.parent.iterdir()) + 16_384
    with files_no_larger_than(room), pytest.raises(StoreFailed):
        store.accept_delta(announced(2, many, since=1), many, ())
    assert store.host_maps("subnet-1") == {host_map(1)}
    assert store.accept_delta(announced(2, many, since=1), many, ()).record.host_maps == len(many)
    store.close()
    reopened = HostMapStore.open(path)
    assert reopened.host_maps("subnet-1") == set(many)
    reopened.close()


def test_a_transfer_that_cannot_be_put_away_is_not_accepted_either(store: HostMapStore) -> None:
    store.begin_transfer(announced(1, [host_map(1)]), 1)
    store.add_page("subnet-1", 1, [host_map(1)], ())
    refuse = "CREATE TEMP TRIGGER full BEFORE DELETE ON staged BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    store._connection.execute(refuse)
    with pytest.raises(StoreFailed, match="disk is full"):
        store.commit_transfer("subnet-1", 1)
    assert (store.stamp(), store.subnets()) == (None, ())


WRITER = """
import sys
from pathlib import Path
from clusterd.convergence.acceptance import Announced
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.digest import digest_of_map
from tests.clusterd.host_maps.test_store import CIDR, HERE, host_map
store = HostMapStore.open(Path(sys.argv[1]))
digest = 0
for number in range(1, 1_000_000):
    digest ^= digest_of_map(host_map(number))
    store.accept_delta(Announced(HERE, "subnet-1", CIDR, number - 1, number, digest), [host_map(number)], ())
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledgements", [1, 37, 400])
def test_what_was_acknowledged_survives_kill_9(path: Path, acknowledgements: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= acknowledgements:
                os.kill(writer.pid, signal.SIGKILL)
                break
        last = max([acknowledgements, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    store = HostMapStore.open(path)
    (record,) = store.subnets()
    assert record.accepted_generation in (last, last + 1)  # one more may have been on its way to being answered
    assert store.host_maps("subnet-1") == {host_map(number) for number in range(1, record.accepted_generation + 1)}
    assert record.digest == digest_of(store.host_maps("subnet-1"))
    store.close()
