"""The driver: what is accepted reaches the server, whatever the server does meanwhile."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred

from clusterd.convergence.acceptance import Origin, SubnetRecord
from clusterd.convergence.convergence import COMPARE_INTERVAL_SECONDS, LAST_RETRY_SECONDS
from clusterd.dhcp.backend import BackendError, Capabilities, Rejection
from clusterd.host_maps.schema import StoreFailed
from clusterd.host_maps.states import RETRY_SECONDS, HostMapState
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import HistoryMismatch, NotStored, ServerRefused
from clusterd.protocol.values import HeldSubnet, HostMap, Identifier, IdentifierKind
from tests.clusterd.convergence.site import HERE, Site, StubbornBackend, host_map, site
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.fakes.backend import AppliedChange
from tests.finished import result_of

__all__ = ["site"]


def test_a_change_is_accepted_applied_recorded_and_reported(site: Site) -> None:
    with logged() as events:
        assert site.change([host_map(1), host_map(2)], request_ids=["request-a", "request-b"]) == 1
    assert site.backend.maps == {host_map(1), host_map(2)}
    assert site.applied() == 1
    assert site.state() == HostMapState("history-1", "subnet-1", 1)
    lines = [(e["event"], e["address"], e["subnet"], e["generation"], e["request_ids"]) for e in events]
    assert lines == [
        ("host-map.applied", "192.0.2.1", "192.0.2.0/24", 1, ["request-a"]),
        ("host-map.applied", "192.0.2.2", "192.0.2.0/24", 1, ["request-b"]),
    ]


def test_what_came_during_a_comparison_and_goes_before_it_has_ended_does_not_stay(site: Site) -> None:
    site.change([host_map(1)])
    site.kill()
    reading = site.backend.reading = Deferred()
    site.boot()
    site.connect()
    site.change([host_map(2)])
    site.backend.hold()
    site.backend.reading = None
    reading.callback(None)
    assert site.backend.held == 1, "the comparison found the host map that came meanwhile"
    site.change(removals=[host_map(2).identifier])
    site.backend.let_go()
    assert site.backend.maps == {host_map(1)}
    assert site.applied() == 3


def test_a_removal_and_a_move_are_told_in_one_step(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    with logged() as events:
        site.change([host_map(2, "192.0.2.99")], [host_map(1).identifier], request_ids=["one", "two", "three"])
    change = AppliedChange("apply", frozenset({host_map(1), host_map(2)}), frozenset({host_map(2, "192.0.2.99")}))
    assert site.backend.changes[-1] == change
    assert {(e["event"], e["address"]) for e in events} == {
        ("host-map.removed", "192.0.2.1"),
        ("host-map.applied", "192.0.2.99"),
    }
    assert {tuple(e["request_ids"]) for e in events} == {("one", "two", "three")}


def test_what_arrives_during_an_apply_joins_the_next_one(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.hold()
    site.change([host_map(2)])
    before = len(site.backend.changes)
    for number in range(3, 8):
        site.change([host_map(number)])
    site.change([host_map(200, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    site.change([host_map(3, "192.0.2.33")])
    site.change([], [host_map(4).identifier])
    assert site.backend.held == 1  # one in flight, however much comes
    assert site.applied() == 1
    site.backend.let_go()
    assert len(site.backend.changes) == before + 2
    assert site.backend.maps == {m for wanted in site.sets.values() for m in wanted.values()}
    assert (site.applied(), site.applied("subnet-2")) == (9, 1)


def test_applied_never_passes_what_the_apply_was_given(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.hold()
    site.change([host_map(2)])
    site.change([host_map(3)])
    held = site.backend._held_calls
    assert held is not None
    first = held.pop(0)
    first.callback(None)  # the first apply ends, the second waits
    assert site.backend.maps == {host_map(1), host_map(2)}
    assert site.applied() == 2 and site.state().applied_generation == 2
    site.backend.let_go()
    assert site.applied() == 3


def test_a_change_without_host_maps_advances_the_generation(site: Site) -> None:
    site.change([host_map(1)])
    calls = len(site.backend.changes)
    site.change()
    assert site.applied() == 2 and len(site.backend.changes) == calls


def test_a_refusing_server_is_reported_in_its_own_words_and_tried_again(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.refuse_all("no space left in dhcpd")
    with logged() as events:
        assert site.change([host_map(2)]) == 2  # accepted all the same
    assert site.state() == HostMapState("history-1", "subnet-1", 1, error="no space left in dhcpd")
    assert [e["event"] for e in events] == ["dhcp-server.failed"]
    assert site.change([host_map(3)]) == 3
    for _ in range(20):
        site.clock.advance(LAST_RETRY_SECONDS)
    assert site.applied() == 1
    site.backend.accept_all()
    site.clock.advance(LAST_RETRY_SECONDS * 1.25)
    assert site.backend.maps == {host_map(1), host_map(2), host_map(3)}
    assert site.state() == HostMapState("history-1", "subnet-1", 3)


def test_attempts_get_rarer_up_to_a_minute(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.refuse_all("no")
    attempts: list[float] = []
    reads = site.backend.reads
    site.change([host_map(2)])
    while len(attempts) < 9:
        site.clock.advance(0.25)
        if site.backend.reads > reads:
            reads = site.backend.reads
            attempts.append(site.clock.seconds())
    pauses = [later - earlier for earlier, later in zip([0.0, *attempts], attempts, strict=False)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_changes_during_the_pause_do_not_hammer_the_server(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.refuse_all("no")
    site.change([host_map(2)])
    reads = site.backend.reads
    for number in range(3, 30):
        site.change([host_map(number)])
    assert site.backend.reads == reads
    assert site.state().error == "no"


def test_one_rejected_map_does_not_hold_up_the_others(site: Site) -> None:
    site.backend.reject(host_map(2).identifier, "duplicate dhcp-host")
    with logged() as events:
        site.change([host_map(1), host_map(2)])
    assert site.backend.maps == {host_map(1)}
    state = site.state()
    assert state.applied_generation == 1 and state.error is None
    assert [(one.identifier, one.reason) for one in state.rejected] == [(host_map(2).identifier, "duplicate dhcp-host")]
    assert sorted(e["event"] for e in events) == ["host-map.applied", "host-map.failed"]
    site.change([host_map(3)])
    assert site.state().rejected == state.rejected  # the whole list, not a difference
    site.change([], [host_map(2).identifier])
    assert site.state().rejected == ()


def test_a_rejected_map_is_tried_again_and_not_complained_of_again(site: Site) -> None:
    site.backend.reject(host_map(1).identifier, "no")
    site.change([host_map(1)])
    with logged() as events:
        site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert events == []
    site.backend.accept_all()
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert site.backend.maps == {host_map(1)} and site.state().rejected == ()


def test_a_rejected_removal_never_advances_applied(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    site.change([host_map(100, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    site.backend.keeps[host_map(1)] = "host is locked"
    site.change([], [host_map(1).identifier])
    site.change([host_map(101, "198.51.100.2")], subnet="subnet-2", cidr="198.51.100.0/24")
    assert site.applied() == 1 and site.applied("subnet-2") == 2
    assert [(one.identifier, one.reason) for one in site.state().rejected] == [
        (host_map(1).identifier, "still has 192.0.2.1: host is locked")
    ]
    site.change([host_map(3)])  # applied to the server, and still not reported as such
    assert host_map(3) in site.backend.maps and site.applied() == 1
    site.backend.keeps.clear()
    site.clock.advance(LAST_RETRY_SECONDS)
    assert site.backend.maps == {host_map(2), host_map(3), *site.sets["subnet-2"].values()}
    assert site.applied() == 3 and site.state().rejected == ()


def test_a_stuck_removal_is_tried_again_however_often_something_changes(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.keeps[host_map(1)] = "host is locked"
    site.change([], [host_map(1).identifier])
    site.backend.keeps.clear()
    for number in (2, 3, 4):
        site.clock.advance(LAST_RETRY_SECONDS * 0.4)
        site.change([host_map(number)])
    assert site.backend.maps == {host_map(2), host_map(3), host_map(4)}
    assert site.applied() == 5 and site.state().rejected == ()


def test_what_the_server_cannot_serve_is_rejected_and_not_tried(site: Site) -> None:
    site.backend.capabilities = Capabilities(frozenset({4}), frozenset({IdentifierKind.MAC}), 100)
    client = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"client"), "192.0.2.2")
    site.change([host_map(1), client, host_map(3, "198.51.100.3")])
    six = HostMap(host_map(6).identifier, "2001:db8::6")
    site.change([six], subnet="subnet-6", cidr="2001:db8::/64")
    assert site.backend.maps == {host_map(1)}
    assert {str(one.identifier.kind): one.reason for one in site.state().rejected} == {
        "client-id": "this DHCP server does not recognise a client by its client-id",
        "mac": "198.51.100.3 is not in 192.0.2.0/24",
    }
    assert site.state("subnet-6").rejected[0].reason == "this DHCP server does not serve IPv6"
    assert (site.applied(), site.applied("subnet-6")) == (1, 1)


def test_above_its_limit_the_server_keeps_what_it_has(site: Site) -> None:
    site.backend.capabilities = Capabilities(frozenset({4, 6}), frozenset(IdentifierKind), 3)
    site.change([host_map(1), host_map(2), host_map(3)])
    site.change([host_map(4)])
    site.change([host_map(5)])
    assert site.backend.maps == {host_map(1), host_map(2), host_map(3)}
    assert [one.identifier for one in site.state().rejected] == [host_map(4).identifier, host_map(5).identifier]
    assert "at most 3 host maps" in site.state().rejected[0].reason
    assert site.applied() == 3
    site.change([], [host_map(1).identifier])
    assert site.backend.maps == {host_map(2), host_map(3), host_map(4)}
    assert [one.identifier for one in site.state().rejected] == [host_map(5).identifier]


@pytest.mark.parametrize("steps", ["before the apply", "during the apply", "after the apply"])
def test_a_crash_between_accept_and_apply_is_made_good_at_start(site: Site, steps: str) -> None:
    site.change([host_map(1), host_map(2)])
    if steps == "before the apply":
        site.backend.refuse_all("down")
    elif steps == "during the apply":
        site.backend.hold()
    site.change([host_map(3)], [host_map(1).identifier])
    if steps == "during the apply":
        served = set(site.backend.maps)
        site.kill()
        site.backend.maps = served
    else:
        site.kill()
        site.backend.accept_all()
    with logged() as events:
        site.boot()
    assert site.backend.maps == {host_map(2), host_map(3)}
    assert site.applied() == 2
    if steps != "after the apply":
        assert sorted((e["event"], e["address"]) for e in events) == [
            ("host-map.applied", "192.0.2.3"),
            ("host-map.removed", "192.0.2.1"),
        ]
    site.connect()
    assert site.state() == HostMapState("history-1", "subnet-1", 2)


def test_drift_is_repaired_every_few_minutes_and_logged(site: Site) -> None:
    many = [host_map(number) for number in range(1, 21)]
    site.change(many)
    site.backend.forget([host_map(1)])
    site.backend.maps.add(host_map(99))
    with logged() as events:
        site.clock.advance(COMPARE_INTERVAL_SECONDS - 1)
        assert host_map(1) not in site.backend.maps
        site.clock.advance(1)
    assert site.backend.maps == set(many)
    assert site.backend.changes[-1].kind == "apply"
    assert sorted((e["event"], e["address"]) for e in events) == [
        ("host-map.drift-repaired", "192.0.2.1"),
        ("host-map.drift-repaired", "192.0.2.99"),
    ]
    assert site.state() == HostMapState("history-1", "subnet-1", 1, drift_repaired=2)
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    site.connect()
    assert site.state().drift_repaired == 0  # told once


def test_repaired_drift_is_told_when_the_region_is_there_again(site: Site) -> None:
    many = [host_map(number) for number in range(1, 21)]
    site.change(many)
    site.deaf = True
    for lost in (host_map(1), host_map(2)):
        site.backend.forget([lost])
        site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert site.state().drift_repaired == 0
    site.deaf = False
    site.clock.advance(RETRY_SECONDS)
    assert site.state() == HostMapState("history-1", "subnet-1", 1, drift_repaired=2)


def test_a_resynchronisation_is_one_line_per_subnet(site: Site) -> None:
    with logged() as events:
        site.change([host_map(n, f"10.{n >> 8}.{n & 255}.1") for n in range(1, 1101)], cidr="10.0.0.0/8")
    (line,) = events
    assert (line["event"], line["subnet"], line["applied"]) == ("host-map.bulk-applied", "10.0.0.0/8", 1100)


def test_a_server_that_lost_most_is_given_everything_at_once(site: Site) -> None:
    many = [host_map(number) for number in range(1, 21)]
    site.change(many)
    site.backend.forget(many[:12])
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert site.backend.changes[-1] == AppliedChange("replace", frozenset(), frozenset(many))


def test_a_failed_listing_deletes_nothing(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    calls = len(site.backend.changes)
    site.backend.refuse_all("cannot list")
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert len(site.backend.changes) == calls and site.state().error == "cannot list"
    site.backend.accept_all()
    site.clock.advance(2)
    assert site.state() == HostMapState("history-1", "subnet-1", 1)


def test_a_listing_that_fails_is_not_taken_for_an_empty_one(site: Site) -> None:
    """Though the server takes whatever it is told: what it has is not known, so it is told nothing."""
    site.change([host_map(1), host_map(2)])
    calls = len(site.backend.changes)
    site.backend.forget([host_map(1)])
    site.backend.refuse_to_list("cannot list")
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    assert len(site.backend.changes) == calls and site.state().error == "cannot list"
    site.backend.accept_all()
    site.clock.advance(2)
    assert site.backend.maps == {host_map(1), host_map(2)}
    assert site.backend.changes[calls:] == [AppliedChange("apply", frozenset(), frozenset({host_map(1)}))]


def test_a_lost_store_does_not_empty_the_server(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    site.change([host_map(100, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    site.kill()
    for file in site.path.parent.iterdir():
        file.unlink()
    site.generations.clear()
    site.sets.clear()
    site.boot()
    assert len(site.backend.maps) == 3
    site.connect()
    site.change([host_map(2)])  # the region sends one subnet again, of which one map is gone
    assert site.backend.maps == {host_map(2), host_map(100, "198.51.100.1")}
    result_of(site.accepted.forget_subnet("history-1", "subnet-2", "198.51.100.0/24"))
    assert site.backend.maps == {host_map(2)}


def test_an_apply_is_verified_by_what_it_touched(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.loses = {host_map(2)}
    site.change([host_map(2)])
    assert site.applied() == 1 and "read back" in (site.state().error or "")
    site.backend.loses = set()
    site.clock.advance(1)
    assert site.backend.maps == {host_map(1), host_map(2)} and site.applied() == 2


def test_leases_of_removed_maps_are_ended_before_the_removal_is_reported(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    site.backend.released.clear()
    site.backend.keeps[host_map(2)] = "locked"
    site.change([host_map(1, "192.0.2.99")], [host_map(2).identifier])
    assert site.backend.released == [{host_map(1)}]


def test_a_lease_that_could_not_be_ended_is_ended_before_the_removal_is_reported(site: Site) -> None:
    site.change([host_map(1), host_map(2), host_map(3)])
    site.backend.released.clear()

    async def fail(removed: Collection[HostMap]) -> None:
        raise BackendError("no answer to lease4-del")

    working, site.backend.release = site.backend.release, fail  # type: ignore[method-assign]
    site.change([], [host_map(1).identifier, host_map(2).identifier])
    assert site.backend.maps == {host_map(3)}
    assert (site.applied(), site.state().error) == (1, "no answer to lease4-del")
    site.backend.release = working  # type: ignore[method-assign]
    site.change([host_map(2)])  # it is there again: its lease is its own
    site.clock.advance(2)
    assert site.backend.released == [{host_map(1)}] and site.applied() == 3


@pytest.mark.parametrize("how", ["removed", "moved", "forgotten", "snapshot"])
def test_a_lease_is_ended_by_the_next_process_when_this_one_dies_before(site: Site, how: str) -> None:
    site.change([host_map(1), host_map(2)])

    async def never(removed: Collection[HostMap]) -> None:
        await Deferred()

    working, site.backend.release = site.backend.release, never  # type: ignore[method-assign]
    if how == "forgotten":
        Outcome(site.accepted.forget_subnet(HERE.history, "subnet-1", None))
    elif how == "snapshot":
        digest = digest_of([host_map(2)])
        result_of(site.accepted.begin_transfer(HERE.history, "subnet-1", "192.0.2.0/24", None, 2, digest, 1))
        result_of(site.accepted.transfer_page("subnet-1", 2, [host_map(2)], ()))
        assert result_of(site.accepted.commit_transfer("subnet-1", 2)) == 2
    elif how == "moved":
        site.change([host_map(1, "192.0.2.99")])
    else:
        site.change([], [host_map(1).identifier])
    assert host_map(1) not in site.backend.maps
    site.kill()
    site.backend.release = working  # type: ignore[method-assign]
    site.backend.released.clear()
    site.boot()
    expected = {host_map(1), host_map(2)} if how == "forgotten" else {host_map(1)}
    assert site.backend.released == [expected]
    assert site.store.former_leases() == frozenset()
    assert site.store.subnets() == () if how == "forgotten" else site.applied() == 2


def test_a_lease_of_a_host_map_that_stays_is_not_ended_when_its_name_changes(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.released.clear()
    named = HostMap(host_map(1).identifier, host_map(1).address, "printer")
    site.change([named])
    assert site.backend.maps == {named} and site.backend.released == []


def test_a_server_is_not_asked_for_leases_of_what_it_cannot_serve(site: Site) -> None:
    site.backend.capabilities = replace(site.backend.capabilities, families=frozenset({6}))
    site.change([host_map(1)])
    site.backend.released.clear()
    site.change([], [host_map(1).identifier])
    assert site.applied() == 2 and set(site.backend.released) == {frozenset()}
    assert site.store.former_leases() == frozenset()


def test_a_lease_is_ended_of_what_somebody_else_removed_before(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    site.backend.released.clear()
    site.backend.forget([host_map(1)])
    site.backend.refuse_all("away")
    site.change([], [host_map(1).identifier])
    site.backend.accept_all()
    site.clock.advance(2)
    assert site.backend.released == [{host_map(1)}] and site.applied() == 2


def test_nothing_to_do_at_start_tells_the_server_nothing(site: Site) -> None:
    site.change([host_map(1), host_map(2)])
    site.kill()
    before = {file: file.read_bytes() for file in site.path.parent.iterdir()}
    site.backend.changes.clear()
    site.boot()
    site.connect()
    site.clock.advance(COMPARE_INTERVAL_SECONDS * 3)
    assert site.backend.changes == [] and set(site.backend.released[2:]) == {frozenset()}
    site.kill()
    assert {file: file.read_bytes() for file in site.path.parent.iterdir()} == before


def test_a_server_that_says_it_has_nothing_is_not_told_to_have_nothing_else(site: Site) -> None:
    """Its listing may have come back empty by mistake, and the store may have been lost."""
    site.change([host_map(number) for number in range(1, 21)])
    site.change([host_map(100, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    site.backend.changes.clear()

    async def nothing() -> frozenset[HostMap]:
        return frozenset()

    working, site.backend.read = site.backend.read, nothing  # type: ignore[method-assign]
    site.clock.advance(COMPARE_INTERVAL_SECONDS)
    site.backend.read = working  # type: ignore[method-assign]
    assert {change.kind for change in site.backend.changes} == {"apply"}
    assert {change.removed for change in site.backend.changes} == {frozenset()}
    assert len(site.backend.maps) == 21


def test_two_subnets_may_hold_one_identifier(site: Site) -> None:
    site.change([host_map(1)])
    site.change([host_map(1, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    assert site.backend.maps == {host_map(1), host_map(1, "198.51.100.1")}
    site.change([], [host_map(1).identifier])
    assert site.backend.maps == {host_map(1, "198.51.100.1")}


def test_a_map_that_two_overlapping_subnets_hold_stays_until_both_let_it_go(site: Site) -> None:
    site.change([host_map(1)])
    site.change([host_map(1)], subnet="subnet-2", cidr="192.0.2.0/25")
    site.change([], [host_map(1).identifier])
    assert site.backend.maps == {host_map(1)}
    site.change([], [host_map(1).identifier], subnet="subnet-2", cidr="192.0.2.0/25")
    assert site.backend.maps == set()


# ---- ForgetSubnet ----


def test_forgetting_is_answered_when_disk_and_server_are_free(site: Site) -> None:
    site.change([host_map(1)])
    site.change([host_map(100, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    site.backend.hold()
    forgetting = Outcome(site.accepted.forget_subnet("history-1", "subnet-1", None))
    assert not forgetting.done() and not site.store.host_maps("subnet-1")
    site.backend.let_go()
    assert forgetting.done() and forgetting.error is None
    assert site.backend.maps == {host_map(100, "198.51.100.1")}
    assert [record.subnet for record in site.store.subnets()] == ["subnet-2"]
    assert result_of(site.accepted.forget_subnet("history-1", "subnet-1", None)) is None  # and once more


def test_forgetting_says_what_the_server_says(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.refuse_all("cannot write")
    with pytest.raises(ServerRefused, match="cannot write"):
        result_of(site.accepted.forget_subnet("history-1", "subnet-1", None))
    with pytest.raises(ServerRefused, match="cannot write"):  # in the pause, too
        result_of(site.accepted.forget_subnet("history-1", "subnet-1", None))
    site.kill()
    site.boot()
    site.connect()
    site.backend.accept_all()
    site.clock.advance(2)
    assert site.backend.maps == set() and site.store.subnets() == ()
    result_of(site.accepted.forget_subnet("history-1", "subnet-1", None))


def test_forgetting_waits_for_a_removal_that_the_server_does_not_do(site: Site) -> None:
    site.change([host_map(1), host_map(2), host_map(3), host_map(4)])
    site.change([host_map(n, f"198.51.100.{n}") for n in range(1, 20)], subnet="subnet-2", cidr="198.51.100.0/24")
    site.backend.keeps[host_map(1)] = "locked"
    with pytest.raises(ServerRefused, match=r"192\.0\.2\.1: locked"):
        result_of(site.accepted.forget_subnet("history-1", "subnet-1", None))
    site.backend.keeps.clear()
    result_of(site.accepted.forget_subnet("history-1", "subnet-1", None))
    assert len(site.backend.maps) == 19


def test_a_subnet_given_again_is_not_forgotten(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.hold()
    forgetting = Outcome(site.accepted.forget_subnet("history-1", "subnet-1", None))
    site.generations.clear()
    site.sets.clear()
    site.change([host_map(2)])
    assert isinstance(forgetting.error, ServerRefused)
    site.backend.let_go()
    assert site.backend.maps == {host_map(2)} and site.applied() == 1


def test_the_end_of_an_earlier_order_to_forget_is_not_that_of_a_later_one(site: Site) -> None:
    """What was given in between may be in the server: a clusterd that dies now has to know that it is to go."""
    site.change([host_map(1)])
    site.backend.hold()
    Outcome(site.accepted.forget_subnet("history-1", "subnet-1", None))
    site.generations.clear()
    site.sets.clear()
    site.change([host_map(2)])
    later = Outcome(site.accepted.forget_subnet("history-1", "subnet-1", None))
    site.backend.reading = Deferred()
    site.backend.let_go()
    assert [record.forgetting for record in site.store.subnets()] == [True]
    assert not later.done()
    site.backend.reading.callback(None)
    assert later.done() and later.error is None
    assert site.store.subnets() == () and site.backend.maps == set()


# ---- the region comes and goes ----


def test_changes_of_another_history_or_without_registration_are_refused(site: Site) -> None:
    for history in ("history-2", ""):
        with pytest.raises(HistoryMismatch):
            result_of(site.accepted.forget_subnet(history, "subnet-1", None))
    site.accepted.disconnected()
    with pytest.raises(HistoryMismatch):
        site.change([host_map(1)])
    assert site.store.subnets() == ()


def test_states_wait_for_the_next_registration(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.hold()
    site.change([host_map(2)])
    site.accepted.disconnected()
    site.reported.clear()
    site.backend.let_go()
    assert site.reported == []
    site.connect()
    assert site.reported == [HostMapState("history-1", "subnet-1", 2)]


def test_a_report_that_fails_is_made_again(site: Site) -> None:
    site.deaf = True
    site.change([host_map(1)])
    site.deaf = False
    assert site.reported == []
    site.clock.advance(RETRY_SECONDS)
    assert site.reported == [HostMapState("history-1", "subnet-1", 1)]


def test_it_registers_with_what_it_holds(site: Site) -> None:
    assert result_of(site.accepted.held("rack-7")) == (None, ())
    site.change([host_map(1)])
    held = HeldSubnet("subnet-1", 1, 1, digest_of([host_map(1)]))
    assert result_of(site.accepted.held("rack-7")) == (Origin("region-1", "rack-7", "history-1"), (held,))
    assert result_of(site.accepted.held("rack-8")) == (None, ())  # a copied disk


def test_what_another_region_left_is_served_until_it_is_replaced(site: Site) -> None:
    site.change([host_map(1)])
    site.change([host_map(100, "198.51.100.1")], subnet="subnet-2", cidr="198.51.100.0/24")
    other = Origin("region-2", "rack-7", "history-1")
    with logged() as events:
        site.connect(other)
    assert events[0]["event"] == "host-map-store.former-origin" and len(events[0]["cidrs"]) == 2
    assert len(site.backend.maps) == 2
    site.reported.clear()
    site.generations.clear()
    site.sets.clear()
    site.change([host_map(2)])
    assert site.backend.maps == {host_map(2), host_map(100, "198.51.100.1")}
    assert [state.subnet for state in site.reported][-1] == "subnet-1"
    assert result_of(site.accepted.held("rack-7"))[1][0].subnet == "subnet-1"
    assert {state.subnet for state in site.reported} == {"subnet-1"}


def test_more_rejections_than_a_report_holds_are_said(site: Site) -> None:
    maps = [host_map(number, f"203.0.113.{number % 250}") for number in range(1, 601)]
    site.change(maps[:400])
    site.change(maps[400:])
    state = site.state()
    assert len(state.rejected) == 500 and "600 host maps are not served" in (state.error or "")


def test_a_disk_that_refuses_is_said_to_the_region(site: Site) -> None:
    site.change([host_map(1)])
    site.store.close()
    with pytest.raises(NotStored), logged() as events:
        site.change([host_map(2)])
    assert [event["event"] for event in events] == ["host-map-store.failed"]
    assert site.backend.maps == {host_map(1)}
    site.store = HostMapStore.open(site.path)


def test_a_disk_that_takes_no_record_of_what_is_applied_is_tried_less_and_less_often(site: Site) -> None:
    def full(applied: Sequence[SubnetRecord], ended: Collection[HostMap] = ()) -> tuple[SubnetRecord, ...]:
        attempts.append(site.clock.seconds())
        raise StoreFailed("the host map store: database or disk is full")

    attempts: list[float] = []
    working, site.store.record_applied = site.store.record_applied, full  # type: ignore[method-assign]
    with logged() as events:
        site.change([host_map(1)])
        site.clock.pump([1.0] * 7)
    assert attempts == [0.0, 1.0, 3.0, 7.0]
    assert "dhcp-server.recovered" not in [event["event"] for event in events]
    assert "disk is full" in (site.state().error or "")
    site.store.record_applied = working  # type: ignore[method-assign]
    with logged() as events:
        site.clock.advance(8)
    assert [event["event"] for event in events] == ["dhcp-server.recovered"]
    assert site.applied() == 1 and site.state() == HostMapState("history-1", "subnet-1", 1)


# ---- the end ----


def test_stopping_finishes_the_apply_in_flight_and_begins_no_other(site: Site) -> None:
    site.change([host_map(1)])
    site.backend.hold()
    site.change([host_map(2)])
    site.change([host_map(3)])
    stopping = Outcome(site.convergence.stop())
    assert not stopping.done()
    site.backend.let_go()
    assert stopping.done() and stopping.error is None
    assert site.backend.maps == {host_map(1), host_map(2)} and site.applied() == 2
    assert site.clock.getDelayedCalls() == []


def test_a_bug_in_a_backend_is_logged_and_tried_again(site: Site) -> None:
    site.change([host_map(1)])
    working = site.backend.apply

    async def broken(removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        raise ZeroDivisionError

    site.backend.apply = broken  # type: ignore[method-assign]
    with logged() as events:
        site.change([host_map(2)])
    assert "log_failure" in events[0] and events[0]["event"] == "host-maps.failed-here"
    site.backend.apply = working  # type: ignore[method-assign]
    site.clock.advance(1)
    assert site.backend.maps == {host_map(1), host_map(2)} and site.state().error is None


def test_a_bug_before_anything_is_taken_is_logged_and_tried_again(site: Site) -> None:
    site.change([host_map(1)])
    told = site.backend.pause

    def broken(removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        raise ZeroDivisionError

    site.backend.pause = broken  # type: ignore[method-assign]
    with logged() as events:
        site.change([host_map(2)])
    assert events[0]["event"] == "host-maps.failed-here" and "itself failed" in (site.state().error or "")
    site.clock.advance(1)  # a comparison of the whole sets asks for no pause
    assert site.backend.maps == {host_map(1), host_map(2)} and site.applied() == 2 and site.state().error is None
    site.backend.pause = told  # type: ignore[method-assign]
    site.change([host_map(3)])
    assert host_map(3) in site.backend.maps and site.applied() == 3


def test_the_fake_is_refusing_as_backends_do() -> None:
    backend = StubbornBackend()
    backend.refuse_all("no")
    with pytest.raises(BackendError):
        result_of(backend.read())
