"""The way over reservation commands, against a control socket that answers as Kea's manual says."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import capturedLogs

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.settings import KeaSettings, Way
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.contract import ALIAS, ALL_KINDS, BY_DUID, PLAIN, SCENARIOS, UNNAMED, Scenario, numbered
from tests.clusterd.dhcp.kea.scripted import HostCommands, ScriptedServer

SUBNETS = {1: "192.0.2.0/24", 2: "198.51.100.0/24", 7: "10.64.0.0/10"}
SUBNETS_V6 = {1: "2001:db8:0:1::/64"}
OTHER = HostMap(Identifier.mac("00:16:3e:00:00:0d"), PLAIN.address)


class Site:
    """Two scripted servers and the backend over both."""

    def __init__(self, directory: Path, *, database: bool) -> None:
        self.four, self.six = ScriptedServer(directory / "kea4"), ScriptedServer(directory / "kea6")
        self.hosts4 = HostCommands(self.four, 4, SUBNETS, database=database)
        self.hosts6 = HostCommands(self.six, 6, SUBNETS_V6, database=database)
        self.settings = KeaSettings(
            backend="kea", dhcp4_socket=self.four.path, dhcp6_socket=self.six.path, include_directory=directory
        )
        self.backend = self.new_backend()

    def new_backend(self, settings: KeaSettings | None = None) -> KeaBackend:
        """As after a restart of clusterd."""
        return kea_backend(settings or self.settings, reactor, run_at_once)


@pytest_twisted.async_yield_fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    made = Site(tmp_path, database=getattr(request, "param", False))
    await made.four.start()
    await made.six.start()
    yield made
    await made.four.stop()
    await made.six.stop()


@pytest.mark.parametrize("site", [False, True], indirect=True, ids=["memory", "database"])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_contract(scenario: Scenario, site: Site) -> None:
    await scenario(site.backend)
    await site.backend.read()
    assert site.backend.ways == {4: Way.RESERVATION_COMMANDS, 6: Way.RESERVATION_COMMANDS}


@pytest_twisted.ensureDeferred
async def test_the_way_is_logged_with_what_was_passed_over(site: Site) -> None:
    with capturedLogs() as logs:
        await site.backend.read()
    [chosen, _] = [event for event in logs if event.get("event") == "kea.way-chosen"]
    assert (chosen["server"], chosen["way"], chosen["forced"]) == ("kea-dhcp4", "reservation-commands", False)
    assert chosen["passed_over"] == ["hosts-database: its configuration names no hosts-database of type postgresql"]


@pytest_twisted.ensureDeferred
async def test_the_earlier_words_for_the_servers_memory(site: Site) -> None:
    site.hosts4.words = ("primary", "alternate")
    assert await site.backend.apply((), {PLAIN}) == ()
    assert site.hosts4.hosts[0]["ip-address"] == PLAIN.address
    assert await site.backend.read() == {PLAIN}


@pytest_twisted.ensureDeferred
async def test_without_the_hook_it_is_not_offered(site: Site) -> None:
    del site.four.answers["reservation-add"]
    forced = site.new_backend(site.settings.model_copy(update={"way": Way.RESERVATION_COMMANDS}))
    words = "cannot be given host maps by reservation-commands: it has not loaded the hook libdhcp_host_cmds.so"
    with pytest.raises(BackendError, match=f"kea-dhcp4 {words}, and lacks reservation-add"):
        await forced.read()


@pytest_twisted.ensureDeferred
async def test_commands_without_a_memory_to_send_them_to(site: Site) -> None:
    site.hosts4.words = ("neither", "nor")
    forced = site.new_backend(site.settings.model_copy(update={"way": Way.RESERVATION_COMMANDS}))
    with pytest.raises(BackendError, match="its reservation commands need a hosts database"):
        await forced.read()


@pytest_twisted.ensureDeferred
async def test_a_changed_map_is_updated_in_one_step(site: Site) -> None:
    await site.backend.apply((), {PLAIN})
    renamed = HostMap(PLAIN.identifier, "192.0.2.99", "renamed")
    assert await site.backend.apply({PLAIN}, {renamed}) == ()
    assert (site.four.count("reservation-update"), site.four.count("reservation-del")) == (1, 0)
    del site.four.answers["reservation-update"]
    without = site.new_backend()
    assert await without.apply({renamed}, {PLAIN}) == ()
    assert site.four.count("reservation-del") == 1
    assert await without.read() == {PLAIN}


@pytest_twisted.ensureDeferred
async def test_what_is_not_ours_is_never_touched(site: Site) -> None:
    foreign = {"subnet-id": 1, "hw-address": PLAIN.identifier.text, "ip-address": "192.0.2.200"}
    site.hosts4.hosts.append(dict(foreign))
    [rejection] = await site.backend.apply((), {PLAIN, UNNAMED})
    assert rejection.host_map == PLAIN
    assert "192.0.2.200 there already, which is not hostmap's" in rejection.reason
    assert await site.backend.read() == {UNNAMED}
    await site.backend.apply({HostMap(PLAIN.identifier, "192.0.2.200")}, ())
    await site.backend.replace(())
    assert site.hosts4.hosts == [foreign]


@pytest_twisted.ensureDeferred
async def test_an_address_that_somebody_has_is_refused(site: Site) -> None:
    site.hosts4.hosts.append({"subnet-id": 1, "flex-id": "'rack 7'", "ip-address": UNNAMED.address})
    [rejection] = await site.backend.apply((), {UNNAMED})
    assert "192.0.2.12 is reserved for identifier type 4:72:61:63:6b:20:37 already" in rejection.reason


@pytest_twisted.ensureDeferred
async def test_one_client_per_address_where_the_server_wants_it_so(site: Site) -> None:
    site.hosts4.unique = True
    await site.backend.apply((), {PLAIN})
    [rejection] = await site.backend.apply((), {OTHER})
    assert rejection.reason.startswith(
        "Kea takes one client per address as long as ip-reservations-unique is not false"
    )
    assert await site.backend.read() == {PLAIN}


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_in_the_servers_words_and_the_others_go_on(site: Site) -> None:
    add = site.four.answers["reservation-add"]
    words = "unable to add new host: the disk is on fire"
    site.four.answers["reservation-add"] = lambda arguments: (
        {"result": 1, "text": words} if arguments["reservation"].get("hostname") == "web1" else add(arguments)
    )
    [rejection] = await site.backend.apply((), {PLAIN, UNNAMED})
    assert (rejection.host_map, rejection.reason) == (PLAIN, f"kea-dhcp4: {words}")
    assert await site.backend.read() == {UNNAMED}


@pytest_twisted.ensureDeferred
async def test_a_removal_that_is_refused_is_told(site: Site) -> None:
    await site.backend.apply((), {PLAIN, BY_DUID})
    site.four.answers["reservation-del"] = lambda _: {"result": 1, "text": "read-only mode"}
    [rejection] = await site.backend.apply({PLAIN, BY_DUID}, ())
    assert (rejection.host_map, rejection.reason) == (PLAIN, "kea-dhcp4: read-only mode")
    assert await site.backend.read() == {PLAIN}


@pytest_twisted.ensureDeferred
async def test_not_found_may_also_be_a_refusal(site: Site) -> None:
    """Earlier versions answer so to the deletion of what is gone."""
    await site.backend.apply((), {PLAIN})
    remove = site.four.answers["reservation-del"]

    def gone_meanwhile(arguments: object) -> dict[str, object]:
        remove(arguments)
        return {"result": 1, "text": "Host not deleted (not found)."}

    site.four.answers["reservation-del"] = gone_meanwhile
    assert await site.backend.apply({PLAIN}, ()) == ()
    assert await site.backend.read() == frozenset()


@pytest_twisted.ensureDeferred
async def test_a_restarted_server_that_forgot_is_seen_and_can_be_given_everything_again(site: Site) -> None:
    await site.backend.apply((), ALL_KINDS)
    site.hosts4.restart()
    site.hosts6.restart()
    assert await site.backend.read() == frozenset()
    assert await site.backend.apply((), ALL_KINDS) == ()
    assert await site.backend.read() == ALL_KINDS


@pytest_twisted.ensureDeferred
async def test_pages_and_large_changes(site: Site) -> None:
    many = numbered(1200)
    assert await site.backend.replace(many) == ()
    assert site.four.count("reservation-get") == 1  # the question for the name of the server's memory
    assert await site.backend.read() == many
    assert await site.backend.verify(many) == many
    asked = len(site.four.asked)
    assert await site.backend.replace(many) == ()
    assert len(site.four.asked) - asked < 10


@pytest_twisted.ensureDeferred
async def test_one_of_ours_in_a_wrong_subnet_is_deleted(site: Site) -> None:
    await site.backend.apply((), {PLAIN, ALIAS})
    site.hosts4.hosts[0]["subnet-id"] = 2
    assert len(await site.backend.read()) == 1
    assert [host["subnet-id"] for host in site.hosts4.hosts] == [1]


@pytest_twisted.ensureDeferred
async def test_a_server_that_breaks_off_is_an_error(site: Site) -> None:
    await site.backend.apply((), {PLAIN})
    site.four.raw = b""
    for call in (site.backend.read, lambda: site.backend.apply({PLAIN}, ()), lambda: site.backend.verify({PLAIN})):
        with pytest.raises(BackendError, match="closed the connection without a reply"):
            await call()
    [sentence] = await site.backend.check()
    assert sentence.startswith("kea-dhcp4 at ")
