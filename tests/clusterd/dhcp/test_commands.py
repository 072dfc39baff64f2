"""Other programs, run from the reactor."""

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.commands import MAX_OUTPUT_BYTES, Done, commands_of


@pytest_twisted.ensureDeferred
async def test_how_it_ended_and_what_it_printed() -> None:
    run = commands_of(reactor)
    assert await run(["sh", "-c", "echo out; echo err >&2; exit 3"], 10.0) == Done(3, "out\nerr\n")
    assert (await run(["sh", "-c", "kill -9 $$"], 10.0)).status == -9
    assert await run(["cat"], 10.0) == Done(0, "")
    assert len((await run(["sh", "-c", "head -c 200000 /dev/zero"], 10.0)).output) == MAX_OUTPUT_BYTES


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_started_or_does_not_end() -> None:
    run = commands_of(reactor)
    with pytest.raises(BackendError, match="there is no program hostmap-no-such-program"):
        await run(["hostmap-no-such-program"], 1.0)
    with pytest.raises(BackendError, match=r"sleep did not end within 0\.05 s"):
        await run(["sleep", "60"], 0.05)
