"""Reports that come in pages: in any order, more than once, too many, overtaken, or never whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.errors import MalformedArgument
from regiond.cluster_rpc.pages import Pages


@given(st.data(), st.integers(1, 8))
def test_a_report_is_whole_once_whatever_order_its_pages_come_in(data: st.DataObject, pages: int) -> None:
    collected: Pages[str] = Pages(100, "rows")
    order = data.draw(st.permutations(range(pages)))
    again = data.draw(st.lists(st.sampled_from(range(pages)), max_size=8))
    coming = [each for page in order for each in (page, *(a for a in again if a in order[: order.index(page)]))]
    wholes = [collected.add(1, page, pages, f"page {page}", 1) for page in [*coming, *again]]
    assert [whole for whole in wholes if whole is not None] == [[f"page {page}" for page in range(pages)]]


def test_a_later_report_ends_the_one_before() -> None:
    collected: Pages[str] = Pages(100, "rows")
    assert collected.add(1, 0, 2, "old", 1) is None
    assert collected.add(2, 0, 1, "new", 1) == ["new"]
    assert collected.add(1, 1, 2, "old", 1) is None
    assert collected.add(3, 0, 2, "newer", 1) is None
    assert collected.add(3, 1, 2, "newest", 1) == ["newer", "newest"]


@pytest.mark.parametrize(("page", "pages"), [(1, 1), (0, 0), (-1, 3), (7, 3)])
def test_a_page_that_cannot_be_is_refused_and_ends_nothing(page: int, pages: int) -> None:
    collected: Pages[str] = Pages(100, "rows")
    assert collected.add(1, 0, 2, "first", 1) is None
    with pytest.raises(MalformedArgument, match=f"no page {page} of {pages}"):
        collected.add(2, page, pages, "nonsense", 1)
    assert collected.add(1, 1, 2, "second", 1) == ["first", "second"]


def test_a_report_has_one_number_of_pages() -> None:
    collected: Pages[str] = Pages(100, "rows")
    assert collected.add(1, 0, 3, "first", 1) is None
    with pytest.raises(MalformedArgument, match="3 pages has none that is one of 2"):
        collected.add(1, 1, 2, "last", 1)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_what_is_kept_is_bounded_also_of_empty_pages_and_a_report_that_is_too_long_never_whole(rows: int) -> None:
    collected: Pages[str] = Pages(9, "rows")
    fit = 9 // max(rows, 1)
    for page in range(fit):
        assert collected.add(1, page, fit + 2, "page", rows) is None
    with pytest.raises(MalformedArgument, match="at most 9 rows"):
        collected.add(1, fit, fit + 2, "page", rows)
    for page in range(fit + 2):
        assert collected.add(1, page, fit + 2, "page", rows) is None
    assert collected.add(2, 0, 1, "another", 9) == ["another"]
