"""The leases of several clusters as one list, and whose they are."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.addresses import pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain.leases import FoundLease, LeasePart, merge, of_others

MAC, OTHER = Identifier.mac("00:16:3e:00:00:01"), Identifier.mac("00:16:3e:00:00:02")


def found(cluster: int, number: int) -> FoundLease:
    return FoundLease(cluster, f"c{cluster}", ServerLease(f"10.0.0.{number}", (MAC,)))


numbers = st.lists(st.integers(0, 40), max_size=15, unique=True).map(sorted)


@given(st.lists(numbers, max_size=3), st.integers(1, 6))
def test_page_after_page_is_everything_once(clusters: list[list[int]], limit: int) -> None:
    told: list[FoundLease] = []
    after = -1
    for _ in range(100):
        parts = []
        for cluster, held in enumerate(clusters):
            above = [number for number in held if number > after]
            parts.append(LeasePart(tuple(found(cluster, n) for n in above[:limit]), len(above) > limit))
        shown, following = merge(parts, limit)
        assert len({one.lease.address for one in shown}) <= limit
        told += shown
        if following is None:
            break
        assert shown and following == shown[-1].lease.address
        after = int(following.rpartition(".")[2])
    everything = chain.from_iterable([found(c, n) for n in held] for c, held in enumerate(clusters))
    assert told == sorted(everything, key=lambda one: (pack_address(one.lease.address), one.cluster))


def test_a_cluster_that_has_more_and_tells_nothing_does_not_go_on_for_ever() -> None:
    assert merge([LeasePart((), True)], 10) == ([], None)
    assert merge([LeasePart((), True), LeasePart((found(1, 5),), False)], 10) == ([found(1, 5)], None)


def test_whose_lease_it_is() -> None:
    own_duid = Identifier(IdentifierKind.DUID, b"\0\3\0\1" + MAC.value)
    unknown = Identifier(IdentifierKind.DUID, b"\0\4" + b"u" * 16)
    leases = {
        "mine": ServerLease("10.0.0.1", (MAC, Identifier(IdentifierKind.CLIENT_ID, b"\xffx"))),
        "other": ServerLease("10.0.0.1", (OTHER,)),
        "my duid": ServerLease("2001:db8::1", (own_duid,)),
        "unknown": ServerLease("2001:db8::1", (unknown,)),
        "nobody told": ServerLease("10.0.0.1"),
    }
    rows = [FoundLease(1, name, lease) for name, lease in leases.items()]
    assert [one.cluster_name for one in of_others(rows, [MAC])] == ["other", "unknown", "nobody told"]
    assert [one.cluster_name for one in of_others(rows, [MAC, unknown])] == ["other", "nobody told"]
    assert len(of_others(rows, [])) == len(rows)
