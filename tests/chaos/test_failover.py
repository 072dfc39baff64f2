"""A primary and its synchronous standby: nothing acknowledged is lost at a promotion, and the gap is short."""

import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from tests.chaos.failover import REGIONDS, FailoverPlay

reactor: Any = global_reactor

LONGEST_DETECTION_SECONDS = 5.0  # a fraction of a second, unless the machine is slow or busy


@pytest_twisted.ensureDeferred
async def test_a_promotion_loses_nothing_and_a_former_primary_is_not_used(state_directory: Path) -> None:
    seed = random.randrange(1_000_000)
    result = await FailoverPlay(reactor, state_directory, seed).play()
    print(result.text())
    if result.violations:
        again = f"python -m tests.chaos --play failover --seed {seed}"
        pytest.fail(f"{result.text()}\nagain with: {again}", pytrace=False)
    assert result.gap <= result.promotion + LONGEST_DETECTION_SECONDS
    assert result.noticed_by == REGIONDS
    assert result.acknowledged > 200 and result.since_promotion > 100
