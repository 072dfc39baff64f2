"""The backend in memory that other tests rely on: the contract, and the moods it can be put in."""

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from clusterd.dhcp.backend import Backend, BackendError, Rejection
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp import driven_contract
from tests.clusterd.dhcp.contract import PLAIN, SCENARIOS, UNNAMED, Scenario, numbered
from tests.fakes.backend import AppliedChange, FakeBackend
from tests.finished import result_of


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_contract(scenario: Scenario) -> None:
    backend: Backend = FakeBackend()
    result_of(scenario(backend))


class TroubledFake:
    words_when_away = words_when_full = "^it is out of order$"
    refused = (HostMap(Identifier.mac("00:16:3e:aa:01:0f"), "192.0.2.66"), "^not this one$")

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.backend.reject(self.refused[0].identifier, self.refused[1].strip("^$"))

    def new_backend(self) -> Backend:
        return self.backend

    async def written(self) -> int:
        return len(self.backend.changes)

    async def serves(self, host_map: HostMap) -> bool:
        return host_map in self.backend.maps

    async def lose(self, host_map: HostMap) -> None:
        self.backend.forget({host_map})

    async def lose_everything(self) -> None:
        self.backend.maps.clear()

    async def stop(self) -> None:
        self.backend.refuse_all("it is out of order")

    async def start(self) -> None:
        self.backend.accept_all()

    fill_disk, free_disk = stop, start


@pytest.mark.parametrize("scenario", driven_contract.SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_driven_contract(scenario: driven_contract.Scenario, tmp_path: Path) -> None:
    server = TroubledFake()
    async with driven_contract.driven(server, tmp_path) as site:
        await scenario(server, site)


def test_refuses_everything_in_the_given_words_until_it_accepts_again() -> None:
    backend = FakeBackend()
    result_of(backend.apply((), {PLAIN}))
    backend.refuse_all("the server is on fire")
    for call in (backend.read(), backend.apply((), {UNNAMED}), backend.replace({UNNAMED})):
        with pytest.raises(BackendError, match="the server is on fire"):
            result_of(call)
    assert backend.maps == {PLAIN}
    backend.accept_all()
    assert result_of(backend.read()) == {PLAIN}


def test_rejects_one_client_and_takes_the_others() -> None:
    backend = FakeBackend()
    backend.reject(UNNAMED.identifier, "no such subnet")
    assert result_of(backend.apply((), {PLAIN, UNNAMED})) == (Rejection(UNNAMED, "no such subnet"),)
    assert backend.maps == {PLAIN}
    assert backend.changes == [AppliedChange("apply", frozenset(), frozenset({PLAIN, UNNAMED}))]


def test_holds_changes_until_let_go() -> None:
    backend = FakeBackend()
    backend.hold()
    done: list[object] = []
    Deferred.fromCoroutine(backend.apply((), {PLAIN})).addBoth(done.append)
    assert (backend.held, backend.maps, done) == (1, set(), [])
    backend.let_go()
    assert done == [()]
    assert backend.maps == {PLAIN}


def test_refuses_above_its_limit() -> None:
    backend = FakeBackend(max_host_maps=10)
    with pytest.raises(BackendError, match="11 host maps are more than the 10"):
        result_of(backend.replace(numbered(11)))
    assert backend.maps == set()
