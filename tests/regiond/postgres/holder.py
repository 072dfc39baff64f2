"""A process that starts the embedded PostgreSQL, says so in one line of JSON, and waits.

`holder.py STATE [USER [SETTINGS]]`: with USER that is not empty it becomes that user first; SETTINGS are a JSON object.
When standard input ends it stops the server and itself.
"""

import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from regiond.postgres.embedded import EmbeddedPostgres, PostgresUnavailable


class Input(Protocol):
    """Standard input, for its end."""

    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None)


async def hold(reactor: Any) -> None:
    settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else None
    server = EmbeddedPostgres(reactor, Path(sys.argv[1]), settings=settings)
    standard_input = Input()
    stdio.StandardIO(standard_input)
    try:
        dsn = await server.start()
    except PostgresUnavailable as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    program = str(Path(f"/proc/{server.pid}/exe").readlink())
    print(json.dumps({"dsn": dsn, "pid": server.pid, "program": program}), flush=True)
    await standard_input.over
    await server.stop()


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[2]:
        user = pwd.getpwnam(sys.argv[2])
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    react(lambda reactor: Deferred.fromCoroutine(hold(reactor)), _reactor=global_reactor)
