"""A slice of the fuzzing, and what a peer can announce without end."""

import json
import tracemalloc
from typing import Any

import pytest
from twisted.protocols import amp

from clusterd.protocol import commands
from clusterd.protocol.arguments import INTERFACES, MAX_VALUE_BYTES, Number, Text
from clusterd.protocol.connection import Link
from tests.clusterd.log_events import logged
from tests.fuzz.inputs import EVERY_COMMAND
from tests.fuzz.targets import TARGETS, ClusterTarget, EnrolmentTarget, RegionTarget, Target, attack
from tests.regiond.site import HISTORY
from tests.requirements import any_seed

INPUTS = 1_500
MOST_BYTES = 4 << 20


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("seed", [1, any_seed()], ids=["one", "any"])
def test_random_inputs_end_in_a_log_line_at_worst(make: type[Target], seed: int) -> None:
    attack(make, seed, INPUTS)


class Fixed:
    """A generator of random numbers that always says yes: connections are registered."""

    def random(self) -> float:
        return 0.0

    def randrange(self, number: int) -> int:
        return 0


def connected(target: Target) -> Link:
    return target.connect(Fixed())  # type: ignore[arg-type]


def call(link: Link, command: type[amp.Command], **arguments: Any) -> None:
    box = command.makeArguments(arguments, amp.AMP())
    box[amp.COMMAND], box[amp.ASK] = command.commandName, b"1"
    link.dataReceived(box.serialize())


ANSWERED = {
    RegionTarget: commands.ANSWERED_BY_REGIOND,
    ClusterTarget: commands.ANSWERED_BY_CLUSTERD,
    EnrolmentTarget: commands.ANSWERED_TO_ANYBODY,
}


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("command", [command for command in EVERY_COMMAND if command.arguments])
def test_values_of_every_awkward_size_are_refused_by_the_peers_name(
    make: type[Target], command: type[amp.Command]
) -> None:
    """65,536 bytes cannot be said: `test_a_value_above_the_limit_is_not_sent` in `test_connection.py`."""
    target = make()
    answers = command in ANSWERED[make]
    for size in (0, 1, MAX_VALUE_BYTES - 1, MAX_VALUE_BYTES):
        with logged() as events:
            link = connected(target)
            events.clear()
            names = [name for name, _ in command.arguments]
            box = amp.AmpBox({amp.COMMAND: command.commandName, amp.ASK: b"1", **dict.fromkeys(names, b"9" * size)})
            link.dataReceived(box.serialize())
        told = [(e["event"], e["peer"]) for e in events]
        # A digit is a text and a number, though hardly a right one; nothing is a text.
        readable = {0: Text, 1: Text | Number}.get(size)
        if readable is not None and all(isinstance(argument, readable) for _, argument in command.arguments):
            assert told in ([], [("enrolment.refused", "192.0.2.66:4711")])
        elif make is EnrolmentTarget and size > 1:
            assert told == [("link.malformed" if len(names) == 1 and answers else "link.broken", "192.0.2.66:4711")]
        else:
            assert told == [("link.malformed", "192.0.2.66:4711")] * answers
        link.abort()
        target.clock.advance(0.01)
    assert target.still_serves()


def test_a_million_announced_host_maps_take_no_memory_and_more_are_refused() -> None:
    target = ClusterTarget()
    link = connected(target)
    announced = {"history": HISTORY, "cidr": "10.0.0.0/16", "to_generation": 1, "digest": 0}
    tracemalloc.start()
    try:
        for number in range(2_000):
            call(link, commands.BeginTransfer, subnet=f"sn-{number}", count=1_000_000, **announced)
        assert tracemalloc.get_traced_memory()[0] < MOST_BYTES
    finally:
        tracemalloc.stop()
    with logged() as events:
        box = commands.BeginTransfer.makeArguments({**announced, "subnet": "sn-1", "count": 1}, amp.AMP())
        box[amp.COMMAND], box[amp.ASK], box[b"count"] = b"BeginTransfer", b"1", b"1000001"
        link.dataReceived(box.serialize())
    assert [(e["event"], e["peer"], e["command"]) for e in events] == [
        ("link.malformed", "192.0.2.66:4711", "BeginTransfer")
    ]
    assert target.still_serves()


def test_a_topology_without_end_is_refused_and_not_kept() -> None:
    target = RegionTarget()
    link = connected(target)
    row = b'["eth0","10.0.0.0/16",[],[],null,"physical",null,true]'
    page = INTERFACES.toString([INTERFACES.from_row(json.loads(row))] * 500)
    tracemalloc.start()
    try:
        for number in range(30):
            box = amp.AmpBox({amp.COMMAND: b"ReportTopology", amp.ASK: b"1", b"sequence": b"1", b"pages": b"9999"})
            box[b"page"], box[b"interfaces"] = b"%d" % number, page
            link.dataReceived(box.serialize())
        assert tracemalloc.get_traced_memory()[0] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert target.still_serves()
