"""A request that takes something away is repeated under its key when its answer got lost: it has one answer."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from regiond.domain import errors
from regiond.domain.mutations import Idempotency, Outcome
from regiond.storage.reads import Reads

T = TypeVar("T")


async def once(reads: Reads, key: Idempotency | None, act: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """What a request with this key did before, for what it names may be gone since; or its deed now.

    When something that it names is gone the key is looked up again: another regiond may have carried out the same
    request in between.
    """
    if (first := await first_answer(reads, key)) is not None:
        return first
    try:
        return await act()
    except (errors.NotFound, errors.BatchRefused):
        if (first := await first_answer(reads, key)) is not None:
            return first
        raise


async def first_answer(reads: Reads, key: Idempotency | None) -> Outcome | None:
    """What a request with this key did before, if anything. Raises IdempotencyKeyReused if it was another one."""
    return None if key is None else await reads.answer(key)


async def as_made(thing: str, find: Callable[[], Awaitable[T]]) -> T:
    """What a request has made. Repeated under its key it makes nothing, and what it made may be gone meanwhile.

    NotFound says so then: that is another thing than that something which the request names was not found.
    """
    try:
        return await find()
    except (errors.NotFound, errors.NoSuchClusterInterface):
        raise errors.NotFound(f"the {thing} that this request made is gone since") from None


async def still_there(find: Callable[[], Awaitable[T]], was_done: Callable[[], Awaitable[bool]]) -> T | None:
    """What a request is to remove. None when it is gone by the very same request, whose answer got lost."""
    try:
        return await find()
    except (errors.NotFound, errors.NoSuchClusterInterface):
        if await was_done():
            return None
        raise
