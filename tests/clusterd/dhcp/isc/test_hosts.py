"""IPv4 host maps as host objects, and the steps of a change."""

import re

from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.isc.hosts import HostObject, by_client, client_values, is_ours, plan
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.strategies import client_ids, hostnames, v4_maps

MAC = Identifier.mac("00:16:3e:00:00:01")
ALIAS = Identifier(IdentifierKind.CLIENT_ID, b"\x00a\nb")

few_maps = st.builds(
    HostMap,
    st.sampled_from([MAC, ALIAS, Identifier.mac("00:16:3e:00:00:02")]),
    st.integers(1, 4).map(lambda number: f"192.0.2.{number}"),
    st.sampled_from([None, "web", "db"]),
)


def unambiguous(host_maps: set[HostMap]) -> bool:
    return len({(one.identifier, one.address) for one in host_maps}) == len(host_maps)


few_sets = st.sets(few_maps, max_size=6).filter(unambiguous)


def test_names_and_statements() -> None:
    plain = HostObject((HostMap(MAC, "192.0.2.11"),))
    assert (plain.name, plain.statements) == ("hostmap-00-16-3e-00-00-01", "")
    named = HostObject((HostMap(MAC, "192.0.2.11", "web1"), HostMap(MAC, "198.51.100.11", "web1")))
    assert named.statements == 'option host-name "web1";'
    assert re.fullmatch(r"hostmap-00-16-3e-00-00-01-[0-9a-f]{8}", named.name)
    differently = HostObject((HostMap(ALIAS, "192.0.2.11", "a"), HostMap(ALIAS, "198.51.100.11")))
    assert differently.statements == 'if leased-address = c0:00:02:0b { option host-name "a"; }'
    assert differently.name.startswith("hostmap-id-00610a62-")
    both = HostObject((HostMap(MAC, "192.0.2.11", "a"), HostMap(MAC, "198.51.100.11", "b")))
    assert both.statements == (
        'if leased-address = c0:00:02:0b { option host-name "a"; } '
        'elsif leased-address = c6:33:64:0b { option host-name "b"; }'
    )


@given(v4_maps)
def test_names_are_safe_and_ours(host_map: HostMap) -> None:
    """dhcpd checks no syntax: a name with anything else corrupts its leases file."""
    name = HostObject((host_map,)).name
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert is_ours(name.encode())


@given(st.lists(client_ids, min_size=2, max_size=2, unique=True), hostnames)
def test_different_clients_have_different_names(identifiers: list[Identifier], hostname: str) -> None:
    one, other = (HostObject((HostMap(identifier, "192.0.2.1", hostname),)) for identifier in identifiers)
    assert one.name != other.name
    assert client_values(one.identifier) != client_values(other.identifier)


@given(few_sets, few_sets, few_sets)
def test_a_plan_leads_to_what_is_wanted(had: set[HostMap], removed: set[HostMap], added: set[HostMap]) -> None:
    """All removals come first; whatever is refused had its address with another name already."""
    known = by_client(had)
    changes = plan(known, removed, added)
    between, after = set(had), set(had)
    refused: set[HostMap] = set()
    for change in changes:
        before = set(change.before.host_maps) if change.before is not None else set()
        middle = set(change.between.host_maps) if change.between is not None else set()
        assert middle <= before
        between = (between - before) | middle
        after = (after - before) | (set(change.after.host_maps) if change.after is not None else set())
        refused |= set(change.refused)
        assert change.forgotten == any(m.identifier == change.identifier and m not in had for m in removed)
    assert between == had - removed
    assert after == (had - removed) | (added - refused)
    taken = {(m.identifier, m.address) for m in had - removed}
    assert all((m.identifier, m.address) in taken for m in refused)


@given(few_sets)
def test_nothing_to_do_is_no_plan(had: set[HostMap]) -> None:
    assert plan(by_client(had), (), had) == []
    assert plan(by_client(had), (), ()) == []
