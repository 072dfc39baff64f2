"""Counting who is refused."""

from regiond.cluster_rpc.refusals import MAX_REMEMBERED, Refusals


def test_each_name_is_counted_and_another_reason_counts_anew() -> None:
    refusals = Refusals()
    said = [
        ("a", "revoked"),
        ("b", "revoked"),
        ("a", "revoked"),
        ("a", "forgotten"),
        ("a", "forgotten"),
        ("b", "revoked"),
    ]
    assert [refusals.add(*one) for one in said] == [1, 1, 2, 1, 2, 2]
    refusals.let_in("a")
    refusals.let_in("nobody")
    assert (refusals.add("a", "forgotten"), refusals.add("b", "revoked")) == (1, 3)


def test_who_was_refused_the_longest_ago_is_forgotten_first() -> None:
    refusals = Refusals()
    for number in range(MAX_REMEMBERED):
        refusals.add(str(number), "revoked")
    assert refusals.add("0", "revoked") == 2
    assert refusals.add("one more", "revoked") == 1
    assert (refusals.add("0", "revoked"), refusals.add("1", "revoked")) == (3, 1)
