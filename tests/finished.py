"""The result of a coroutine that needs no reactor to finish."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns or raises. Raises AssertionError when it is still waiting for something."""
    results: list[T | Failure] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    assert results, f"{coroutine!r} is still waiting"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]
