"""The storm in its short form; `make soak` is the long one."""

import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from tests.chaos.storm import Report, Storm

reactor: Any = global_reactor

SECONDS = 20.0


def is_enough(report: Report) -> bool:
    """A storm that nobody was out in proves nothing."""
    evils = report.regiond_kills >= SECONDS / 3 and report.server_kills >= 1 and report.backend_terminations >= 10
    return evils and len(report.ledger.claims) >= 200 and report.differences >= 100


@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_or_doubled_while_everything_is_killed(state_directory: Path) -> None:
    seed = random.randrange(1_000_000)
    report = await Storm(reactor, state_directory, SECONDS, seed, is_enough).play()
    print(report.text())
    if report.violations:
        pytest.fail(
            f"{report.text()}\nagain with: python -m tests.chaos --seconds {SECONDS:g} --seed {seed}", pytrace=False
        )
    assert is_enough(report), report.text()
