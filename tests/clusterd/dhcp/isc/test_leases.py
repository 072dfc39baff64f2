"""What a leases file says, written as dhcpd 4.4 writes it."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.isc.hosts import HostObject, by_client
from clusterd.dhcp.isc.leases import ActiveLease, LeasesFile, parse
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.strategies import client_ids, hostnames, macs

MAC = Identifier.mac("00:16:3e:00:00:01")
PLAIN = HostMap(MAC, "192.0.2.11", "web1")
HEAD = (
    "# The format of this file is documented in the dhcpd.leases(5) manual page.\nauthoring-byte-order little-endian;\n"
)


def record(host_object: HostObject) -> str:
    """One record, as in write_host() of dhcpd's server/db.c."""
    identifier = host_object.identifier
    if identifier.kind is IdentifierKind.MAC:
        client = f"  hardware ethernet {identifier.text};"
    elif all(0x20 <= octet < 0x7F and octet not in b'"\\' for octet in identifier.value):
        client = f'  uid "{identifier.value.decode("ascii")}";'
    else:
        client = f"  uid {identifier.text};"
    addresses = ",".join(host_map.address for host_map in host_object.host_maps)
    return (
        f"host {host_object.name} {{\n  dynamic;\n{client}\n  fixed-address {addresses};"
        f"{statements(host_object.host_maps)}\n}}\n"
    )


def statements(host_maps: Iterable[HostMap]) -> str:
    names = {host_map.hostname for host_map in host_maps}
    if len(names) == 1:
        name = names.pop()
        return "" if name is None else f"\n        supersede host-name = {string(name)};"
    branches = [
        f"if leased-address = {pack_address(one.address).hex(':')} {{\n          supersede host-name = "
        f"{string(one.hostname)};\n        }}"
        for one in host_maps
        if one.hostname is not None
    ]
    return "\n        " + " els".join(branches)


def string(name: str) -> str:
    """dhcpd puts what does not fit into 80 columns on a line of its own."""
    return f'"{name}"' if len(name) < 40 else f'\n                      "{name}"'


objects = st.dictionaries(
    st.one_of(macs, client_ids),
    st.dictionaries(st.binary(min_size=4, max_size=4), st.none() | hostnames, min_size=1, max_size=3),
    max_size=5,
).map(
    lambda clients: by_client(
        HostMap(identifier, ".".join(map(str, packed)), name)
        for identifier, addresses in clients.items()
        for packed, name in addresses.items()
    )
)


@given(objects)
def test_what_dhcpd_writes_is_read(written: dict[Identifier, HostObject]) -> None:
    text = HEAD + "".join(record(one) for one in written.values())
    assert parse(text) == LeasesFile(written)


@given(objects, st.integers(0, 10_000))
def test_a_file_cut_anywhere_says_what_is_complete(written: dict[Identifier, HostObject], place: int) -> None:
    """dhcpd may be writing, or may have been killed while it was: then it goes on behind the incomplete record."""
    records = [record(one) for one in written.values()]
    text = "".join(records)
    end = place % (len(text) + 1)
    ends = [len("".join(records[: n + 1])) for n in range(len(records))]
    complete = {one.identifier: one for one, its_end in zip(written.values(), ends, strict=True) if its_end <= end}
    assert parse(HEAD + text[:end]).objects == complete
    if end + 1 not in ends:  # there only the end of the last line is missing
        last = HostObject((HostMap(Identifier.mac("02:ff:ff:ff:ff:fe"), "203.0.113.1"),))
        expected = {**complete, last.identifier: last}
        assert parse(f"{HEAD}{text[:end]}\n{record(last)}").objects == expected


@given(st.text(max_size=500))
def test_any_text_is_read(text: str) -> None:
    parse(text)
    parse(f"host hostmap-x {{\n  {text}\n}}\n")


def test_the_last_record_of_a_name_counts() -> None:
    one = HostObject((HostMap(MAC, "192.0.2.11"),))
    moved = HostObject((HostMap(MAC, "192.0.2.12"),))
    deleted = f"host {one.name} {{\n  dynamic;\n  deleted;\n}}\n"
    assert parse(record(one) + deleted + record(moved)).objects == {MAC: moved}
    assert parse(record(one) + record(moved) + deleted) == LeasesFile()


def test_what_is_not_as_we_write_it_is_a_stray_and_what_is_not_ours_is_nothing() -> None:
    ours = HostObject((PLAIN,))
    renamed = record(ours).replace(ours.name, "hostmap-other")
    without_address = "host hostmap-00-16-3e-00-00-02 {\n  dynamic;\n  hardware ethernet 00:16:3e:00:00:02;\n}\n"
    theirs = record(ours).replace(ours.name, "theirs")
    found = parse(record(ours) + renamed + without_address + theirs)
    assert found == LeasesFile({MAC: ours}, ("hostmap-other", "hostmap-00-16-3e-00-00-02"))


def test_of_two_objects_for_one_client_the_later_counts() -> None:
    first, second = HostObject((HostMap(MAC, "192.0.2.11"),)), HostObject((PLAIN,))
    assert parse(record(first) + record(second)) == LeasesFile({MAC: second}, (first.name,))


def test_active_leases_on_addresses_of_ours_are_told() -> None:
    def lease(address: str, state: str) -> str:
        return (
            f"lease {address} {{\n  starts 0 2026/11/22 16:18:25;\n  binding state {state};\n"
            '  next binding state free;\n  hardware ethernet 00:16:3e:99:00:09;\n  client-hostname "x";\n}\n'
        )

    text = record(HostObject((PLAIN,))) + lease("192.0.2.12", "active") + lease(PLAIN.address, "free")
    assert parse(text).leased == ()
    assert parse(text + lease(PLAIN.address, "active")).leased == (ActiveLease(PLAIN.address, "00:16:3e:99:00:09"),)
    assert parse(text + lease(PLAIN.address, "active") + lease(PLAIN.address, "free")).leased == ()
