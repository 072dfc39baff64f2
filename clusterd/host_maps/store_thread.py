"""One thread for the host map store: its calls block, and their order is the order in which they are made."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class StoreThread:
    """A thread that does one thing after the other. It is a `RunInThread` between `start` and `stop`."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=1, maxthreads=1, name="host-map-store")

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Waits for what was handed in."""
        self._pool.stop()

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        return deferToThreadPool(self._reactor, self._pool, work)
