"""A PostgreSQL for a benchmark, as a process: `python -m tests.bench.database DIRECTORY SETTING=VALUE…`.

Prints its DSN and stays until its standard input ends.
"""

import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from regiond.postgres.embedded import EmbeddedPostgres


class _UntilClosed(Protocol):
    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)


async def main(reactor: Any, directory: str, *settings: str) -> None:
    server = EmbeddedPostgres(reactor, Path(directory), settings=dict(one.split("=", 1) for one in settings))
    print(await server.start(), flush=True)
    waiting = _UntilClosed()
    stdio.StandardIO(waiting)
    await waiting.closed
    await server.stop()


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:], global_reactor)
