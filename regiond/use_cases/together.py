"""Several things at the same time."""

from collections.abc import Awaitable, Iterable
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

T = TypeVar("T")


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """All of it, to its end; the results in order. Raises what the first in order that failed has raised."""
    begun = [Deferred.fromCoroutine(_awaited(each)) for each in work]
    results = []
    for _, result in await DeferredList(begun, consumeErrors=True):
        if isinstance(result, Failure):
            result.raiseException()
        results.append(result)
    return results


async def _awaited(work: Awaitable[T]) -> T:
    return await work
