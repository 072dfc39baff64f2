"""The region asks for leases: what it is answered, over the wire, and how many questions are worked on at once."""

import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from clusterd.dhcp.backend import BackendError, NoLeases
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol import commands
from clusterd.protocol.errors import MalformedArgument, NotSupported, ServerRefused
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind
from clusterd.region_link.lease_answers import MAX_AT_ONCE, LeaseAnswers
from tests.clusterd.dhcp.lease_contract import CLIENT, NET, Leasing, Scenario, parametrized
from tests.clusterd.region_link.test_connection import Cluster, cluster
from tests.fakes.backend import FakeBackend
from tests.finished import result_of

__all__ = ["cluster"]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@parametrized
def test_the_fake_keeps_the_contract(scenario: Scenario, backend: FakeBackend) -> None:
    backend.now = time.time()

    async def obtain() -> str | None:
        backend.leased["192.0.2.100"] = ServerLease("192.0.2.100", (CLIENT,), "c1", int(backend.now) + 600)
        return "192.0.2.100"

    address = result_of(obtain())
    assert address is not None
    result_of(scenario(Leasing(backend, address, obtain)))


def lease(number: int, *identifiers: Identifier) -> ServerLease:
    return ServerLease(f"192.0.2.{number}", identifiers)


def test_over_the_wire(cluster: Cluster) -> None:
    backend = cluster.backend
    for number in range(1, 31):
        backend.leased[f"192.0.2.{number}"] = lease(number, CLIENT)
    cluster.start()

    def ask(**different: Any) -> Any:
        question = {"cidr": NET, "limit": 20, "addresses": (), "clients": (), **different}
        return cluster.ask(cluster.region.call(commands.ListLeases, **question))

    answer = ask()
    assert ([one.address for one in answer["leases"]][-1], answer["more"]) == ("192.0.2.20", 1)
    answer = ask(after="192.0.2.20")
    assert ([one.address for one in answer["leases"]][-1], answer["more"]) == ("192.0.2.30", 0)
    assert ask(addresses=["192.0.2.7"], clients=[CLIENT])["leases"] == (lease(7, CLIENT),)
    cluster.ask(cluster.region.call(commands.EndLease, leases=[lease(7, CLIENT), lease(8)]))
    assert "192.0.2.7" not in backend.leased and "192.0.2.8" in backend.leased
    with pytest.raises(Exception, match="not an IP address"):
        ask(addresses=["here"])
    backend.refuse_all("it is out of order")
    with pytest.raises(ServerRefused, match=r"^it is out of order$"):
        ask()
    with pytest.raises(ServerRefused, match=r"^it is out of order$"):
        cluster.ask(cluster.region.call(commands.EndLease, leases=[lease(9, CLIENT)]))


def test_a_page_of_very_long_identifiers_is_cut_where_it_fits(cluster: Cluster) -> None:
    for number in range(1, 401):
        address = f"10.0.{number >> 8}.{number & 255}"
        octets = bytes((number * factor * 7919 >> 3) & 255 for factor in range(1, 256))
        client = Identifier(IdentifierKind.CLIENT_ID, octets)
        cluster.backend.leased[address] = ServerLease(address, (client,), "x" * 200)
    cluster.start()
    told: list[ServerLease] = []
    after, more = None, 1
    while more:
        question = {"cidr": "10.0.0.0/8", "limit": 500, "addresses": (), "clients": (), "after": after}
        answer = cluster.ask(cluster.region.call(commands.ListLeases, **question))
        assert answer["leases"]
        told += answer["leases"]
        after, more = told[-1].address, answer["more"]
    assert len({one.address for one in told}) == len(told) == 400


def test_a_backend_without_a_server_says_so(tmp_path: Path) -> None:
    answers = LeaseAnswers(FileBackend(tmp_path / "hosts"))
    for asked in (answers.page(NET, None, 10, (), ()), answers.end([lease(1, CLIENT)])):
        with pytest.raises(NotSupported, match="knows of no DHCP server"):
            result_of(asked)


@pytest.mark.parametrize(("cidr", "after", "limit"), [("here", None, 1), (NET, "there", 1), (NET, None, 0)])
def test_questions_that_make_no_sense(backend: FakeBackend, cidr: str, after: str | None, limit: int) -> None:
    with pytest.raises(MalformedArgument):
        result_of(LeaseAnswers(backend).page(cidr, after, limit, (), ()))
    assert backend.asked == []


class SlowBackend(FakeBackend):
    """Answers when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[Deferred[LeasePage]] = []

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        turn: Deferred[LeasePage] = Deferred()
        self.turns.append(turn)
        return await turn


@pytest.fixture
def slow() -> SlowBackend:
    return SlowBackend()


def test_a_few_questions_at_a_time(slow: SlowBackend) -> None:
    answers = LeaseAnswers(slow)
    asked = [Deferred.fromCoroutine(answers.page(NET, None, 10, (), ())) for _ in range(MAX_AT_ONCE + 2)]
    assert len(slow.turns) == MAX_AT_ONCE
    slow.turns[0].errback(BackendError("broken"))
    slow.turns[1].errback(NoLeases("never"))
    assert len(slow.turns) == MAX_AT_ONCE + 2
    for turn in slow.turns[MAX_AT_ONCE:]:
        turn.callback(LeasePage())
    outcomes: list[object] = []
    for one in asked:
        one.addBoth(outcomes.append)
    assert [type(getattr(outcome, "value", outcome)) for outcome in outcomes] == [
        ServerRefused,
        NotSupported,
        LeasePage,
        LeasePage,
    ]
