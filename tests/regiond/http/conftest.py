"""Fixtures of the HTTP tests."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer


@pytest.fixture
def caught_logs() -> Iterator[list[dict[str, Any]]]:
    """Every log event of the test."""
    events: list[dict[str, Any]] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)
