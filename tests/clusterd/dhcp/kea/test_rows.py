"""Changes of rows, configurations and settings: the pure parts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.daemon.config_file import ConfigError, validate
from clusterd.dhcp.kea.configuration import parse_configuration
from clusterd.dhcp.kea.entries import after, rows_of
from clusterd.dhcp.kea.reservations import OWNER, OWNER_TEXT, host_map_of, is_ours, reservation
from clusterd.dhcp.kea.rows import Placed, plan_rows
from clusterd.dhcp.kea.settings import KeaSettings
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd import strategies as values

few_maps = st.builds(
    lambda mac, address: HostMap(Identifier.mac(f"00:16:3e:00:00:0{mac}"), f"192.0.2.{address}"),
    st.integers(1, 4),
    st.integers(1, 4),
)
placed = st.sets(few_maps).map(lambda maps: [(one, 1) for one in {one.identifier: one for one in maps}.values()])


@given(values.host_maps)
def test_a_host_map_survives_being_a_reservation(host_map: HostMap) -> None:
    entry = json.loads(json.dumps(reservation(host_map)))
    assert host_map_of(entry) == host_map
    assert is_ours(entry)


def test_the_mark_is_written_as_kea_would_write_it() -> None:
    assert json.loads(OWNER_TEXT) == OWNER


@given(placed, placed, placed, placed, st.booleans())
def test_a_change_leaves_others_alone_and_does_what_it_does_not_reject(
    ours: list[Placed], foreign: list[Placed], removed: list[Placed], added: list[Placed], unique: bool
) -> None:
    taken = {one.identifier for one, _ in foreign}
    entries = [(1, reservation(one)) for one, _ in ours if one.identifier not in taken]
    entries += [(1, {**reservation(one), "user-context": {}}) for one, _ in foreign]
    rows = list(rows_of(entries))
    changes = plan_rows(rows, removed, added, unique_addresses=unique)
    assert all(row.ours for row in rows if row.host_id in changes.deletes)
    held = after(rows, changes).get(1, set())
    rejected = {rejection.host_map for rejection in changes.rejections}
    assert {one for one, _ in added} - rejected <= held
    assert not held & ({one for one, _ in removed} - {one for one, _ in added})
    assert len({one.identifier for one in held}) == len(held)
    new = {one for one, _ in changes.inserts}
    assert not {one.address for one in new} & {one.address for one, _ in foreign}
    if unique:
        assert all(sum(other.address == one.address for other in held) == 1 for one in new)
    there = rows_of([(1, reservation(one)) for one in held])
    assert not plan_rows(there, (), [(one, 1) for one in new], unique_addresses=False)  # what is there is done


def test_subnets_are_found_by_the_longest_prefix_and_inherit_from_around() -> None:
    document = {
        "Dhcp4": {
            "reservations-out-of-pool": True,
            "subnet4": [{"id": 1, "subnet": "10.0.0.0/8", "pools": [{"pool": "10.9.0.0/16"}]}],
            "shared-networks": [
                {
                    "reservations-out-of-pool": False,
                    "match-client-id": False,
                    "subnet4": [
                        {"id": 2, "subnet": "10.1.0.0/16", "pools": [{"pool": "10.1.0.5 - 10.1.0.9"}]},
                        {"id": 3, "subnet": "10.1.2.0/24", "reservations-in-subnet": False},
                    ],
                }
            ],
        }
    }
    configuration = parse_configuration(4, document)

    def placed_in(address: str) -> int | str:
        subnet = configuration.place(HostMap(Identifier.mac("00:16:3e:00:00:01"), address))
        return subnet if isinstance(subnet, str) else subnet.id

    assert placed_in("10.2.0.1") == 1
    assert placed_in("10.1.0.7") == 2
    assert "reservations-out-of-pool is true" in str(placed_in("10.9.1.1"))
    assert "ignores reservations in 10.1.2.0/24" in str(placed_in("10.1.2.3"))
    assert "no subnet with 192.0.2.1" in str(placed_in("192.0.2.1"))
    assert [subnet.matches_client_id for subnet in configuration.subnets] == [True, False, False]


@pytest.mark.parametrize("document", [{}, {"Dhcp6": {}}, {"Dhcp4": []}, {"Dhcp4": {"subnet4": [{"subnet": "x"}]}}])
def test_what_is_no_configuration(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not a (configuration|network)"):
        parse_configuration(4, document)


def test_the_databases_are_told_without_their_passwords() -> None:
    named = {"type": "postgresql", "name": "kea", "user": "kea", "password": "s3cret", "port": 0}
    [database] = parse_configuration(4, {"Dhcp4": {"hosts-database": named}}).databases
    assert database.parameters == {"host": "localhost", "dbname": "kea", "user": "kea", "password": "s3cret"}
    assert "s3cret" not in repr(database)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"dhcp4_socket": "", "dhcp6_socket": ""}, "name the socket of at least one server"),
        ({"hosts_database": "host=db password=hush"}, "no password belongs here"),
        ({"hosts_database": "postgresql://kea:hush@db/kea"}, "no password belongs here"),
        ({"hosts_database_password_file": "/etc/x"}, "is for hosts_database, and there is none"),
        ({"way": "telepathy"}, "way"),
        ({"dhcp4_socket": "run/kea"}, "has to be absolute"),
    ],
)
def test_mistakes_in_the_settings(table: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate({"backend": "kea", **table}, KeaSettings, "clusterd.toml")
    assert "hush" not in str(caught.value)
