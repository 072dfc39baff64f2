"""Which addresses of a network may ever be claimed."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regiond.domain.networks import network


@pytest.mark.parametrize(
    ("cidr", "first", "last"),
    [
        ("192.0.2.0/24", "192.0.2.1", "192.0.2.254"),
        ("192.0.2.8/30", "192.0.2.9", "192.0.2.10"),
        ("192.0.2.8/31", "192.0.2.8", "192.0.2.9"),
        ("192.0.2.8/32", "192.0.2.8", "192.0.2.8"),
        ("0.0.0.0/0", "0.0.0.1", "255.255.255.254"),
        ("255.255.255.254/31", "255.255.255.254", "255.255.255.255"),
        ("2001:db8::/64", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("2001:db8::4/126", "2001:db8::5", "2001:db8::7"),
        ("2001:db8::4/127", "2001:db8::4", "2001:db8::5"),
        ("2001:db8::4/128", "2001:db8::4", "2001:db8::4"),
        ("2001:db8::/48", "2001:db8::1", "2001:db8:0:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_first_and_last_claimable_address(cidr: str, first: str, last: str) -> None:
    net = network(cidr)
    assert (net.text(net.first_usable), net.text(net.last_usable)) == (first, last)
    assert net.is_usable(net.first_usable)
    assert not net.is_usable(net.first_usable - 1)
    assert not net.is_usable(net.last_usable + 1)


_v4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda t: ip_network(t, strict=False))
_v6 = st.tuples(st.integers(2**96, 2**128 - 1), st.integers(32, 128)).map(lambda t: ip_network(t, strict=False))


@given(_v4 | _v6)
def test_it_says_what_the_standard_library_says(expected: object) -> None:
    net = network(str(expected))
    known = ip_network(str(expected))
    assert net.cidr == str(known)
    assert (net.family, net.first, net.last) == (
        known.version,
        int(known.network_address),
        int(known.broadcast_address),
    )
    assert net.first in net
    assert net.last in net
    assert net.first - 1 not in net
    assert net.last + 1 not in net


@pytest.mark.parametrize("text", ["192.0.2.1/24", "192.0.2.0", "192.0.2.0/33", "nonsense", "2001:db8::1/64", ""])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network(text)
