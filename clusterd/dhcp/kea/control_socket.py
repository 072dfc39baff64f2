"""Kea's control channel: a Unix socket, one command per connection, and the reply ends where the stream ends.

A command is a JSON object, `{"command": …, "arguments": …}`, its reply one with `result` (0 done, 1 refused, 2 not a
command of this server, 3 nothing found), mostly `text` and sometimes `arguments` (Kea's manual, "Management API").
"""

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import RunInThread
from clusterd.protocol.addresses import Family

COMMAND_TIMEOUT_SECONDS = 10.0
MAX_REPLY_BYTES = 256 * 1024 * 1024  # config-get with 100,000 reservations is about 40 MB
_SMALL_REPLY_BYTES = 64 * 1024  # parsed in less than a millisecond

DONE, REFUSED, UNKNOWN_COMMAND, NOTHING_FOUND = range(4)


@dataclass(frozen=True, slots=True)
class Reply:
    """What Kea answered to one command; `result` is one of the constants of this module."""

    result: int
    text: str
    arguments: Any = None


class KeaRefused(BackendError):
    """Kea answered a command with a refusal; `text` is its own words."""

    def __init__(self, server: str, command: str, text: str) -> None:
        super().__init__(f"{server} refuses {command}: {text}")
        self.text = text


class KeaUnreachable(BackendError):
    """Nobody answers at the control socket, or not in time."""


class _Collector(Protocol):
    """Everything that comes until the other side closes; one object per connection."""

    def __init__(self, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []
        self.failure: str | None = None

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self.fail(f"the reply is longer than {self._limit} bytes")
        else:
            self._pieces.append(data)

    def fail(self, why: str) -> None:
        """Cut the connection for this reason."""
        if self.failure is None:
            self.failure = why
            assert self.transport is not None
            abort: Callable[[], None] = self.transport.abortConnection  # type: ignore[attr-defined]
            abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(b"".join(self._pieces))


class ControlSocket:
    """The control channel of one of Kea's servers. Calls may overlap: each has a connection of its own."""

    def __init__(
        self, path: Path, family: Family, reactor: Any, run_in_thread: RunInThread, *, limit: int = MAX_REPLY_BYTES
    ) -> None:
        self.path = path
        self.server = f"kea-dhcp{family}"
        self._reactor = reactor
        self._run_in_thread = run_in_thread
        self._limit = limit

    async def ask(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = COMMAND_TIMEOUT_SECONDS
    ) -> Reply:
        """Send one command. Raises KeaUnreachable; a refusal is a reply like any other."""
        message: dict[str, Any] = {"command": command}
        if arguments is not None:
            message["arguments"] = arguments
        encoded = await self._run_in_thread(lambda: json.dumps(message).encode()) if arguments else _encode(message)
        raw = await self._exchange(command, encoded, timeout)
        try:
            if len(raw) < _SMALL_REPLY_BYTES:
                return _reply(raw)
            return await self._run_in_thread(lambda: _reply(raw))
        except (ValueError, RecursionError) as error:
            raise KeaUnreachable(f"{self.server} answered {command} with what is no reply: {raw[:80]!r}") from error

    async def order(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = COMMAND_TIMEOUT_SECONDS
    ) -> Reply:
        """As `ask`, and everything but success (nothing found included) is KeaRefused."""
        reply = await self.ask(command, arguments, timeout=timeout)
        if reply.result != DONE:
            raise KeaRefused(self.server, command, reply.text)
        return reply

    async def _exchange(self, command: str, message: bytes, timeout: float) -> bytes:
        collector = _Collector(self._limit)
        endpoint = UNIXClientEndpoint(self._reactor, str(self.path), timeout)
        try:
            await connectProtocol(endpoint, collector)
        except ConnectError as error:
            words = _why_not_connected(error)
            raise KeaUnreachable(f"{self.server} does not answer at {self.path}: {words}") from error
        timer: IDelayedCall = self._reactor.callLater(
            timeout, collector.fail, f"no reply within {timeout:g} s: it hangs, or is busy with something long"
        )
        assert collector.transport is not None
        collector.transport.write(message)
        try:
            raw = await collector.done
        finally:
            if timer.active():
                timer.cancel()
        if collector.failure is not None:
            raise KeaUnreachable(f"{self.server} at {self.path}, asked {command}: {collector.failure}")
        if not raw:
            raise KeaUnreachable(f"{self.server} at {self.path} closed the connection without a reply to {command}")
        return raw


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _reply(raw: bytes) -> Reply:
    """Raises ValueError for what is not a reply."""
    content = json.loads(raw)
    if isinstance(content, list) and len(content) == 1:  # the form of the control agent
        content = content[0]
    if not isinstance(content, dict) or not isinstance(content.get("result"), int):
        raise ValueError("no result")
    return Reply(content["result"], str(content.get("text", "")), content.get("arguments"))


def _why_not_connected(error: ConnectError) -> str:
    if error.osError == errno.ENOENT:
        return "there is no such socket: the server is not running, or has its control socket elsewhere"
    if error.osError == errno.ECONNREFUSED:
        return "nobody listens there: the server is not running"
    if error.osError == errno.EACCES:
        return "permission denied: clusterd's user has to be in the group that owns the socket"
    return str(error)
