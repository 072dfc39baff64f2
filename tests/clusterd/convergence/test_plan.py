"""Which subnets have addresses in common."""

from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clusterd.convergence.plan import overlapping

_v4 = st.builds(
    lambda value, length: ip_network((value, length), strict=False), st.integers(0, 255), st.integers(24, 32)
)
_v6 = st.builds(
    lambda value, length: ip_network((value + (1 << 64), length), strict=False),
    st.integers(0, 255),
    st.integers(120, 128),
)


@given(st.lists(_v4 | _v6, max_size=12))
def test_overlapping_are_those_that_overlap_another_one(networks: list[Any]) -> None:
    cidrs = {f"subnet-{number}": str(network) for number, network in enumerate(networks)}
    parsed = {subnet: ip_network(cidr) for subnet, cidr in cidrs.items()}
    expected = {
        subnet
        for subnet, network in parsed.items()
        if any(other != subnet and network.overlaps(against) for other, against in parsed.items())
    }
    assert overlapping(cidrs) == expected
