"""One AMP connection between a cluster and the region: deadlines, undeclared errors, keep-alive.

What AMP does by itself and what is needed here differ in six places (all reproduced on Twisted 26.10):

* an exception that a command does not declare, in a responder, closes the connection. Here it is answered as
  an unknown error with a reference that is also in this side's log;
* a response that is too long closes the connection. Here it is such an error too;
* arguments that do not parse are answered as `MALFORMED_ARGUMENT` and logged with the peer's name;
* `callRemote` waits for ever. `Link.call` has a deadline;
* what a peer does not know is an error that is neither declared nor a `RemoteAmpError`. Here it is a ProtocolError;
* commands are taken as fast as they come, however many wait to be answered. Here a peer is read from no further while
  too many do, or too large ones: its commands then wait in its own buffers.
"""

from typing import Any, TypeVar, cast
from uuid import uuid4

from OpenSSL import SSL
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.daemon.mutual_tls import words_of
from clusterd.protocol.arguments import MAX_VALUE_BYTES
from clusterd.protocol.commands import Ping
from clusterd.protocol.errors import MALFORMED_ARGUMENT_CODE, MalformedArgument, UnknownCommand

PING_INTERVAL_SECONDS = 30.0
PING_DEADLINE_SECONDS = 10.0
CALL_DEADLINE_SECONDS = 15.0
MAX_BOX_KEYS = 64
MAX_DESCRIPTION_LENGTH = 2000
MAX_COMMANDS_IN_FLIGHT = 256
MAX_BYTES_IN_FLIGHT = 16 << 20  # of the values of these commands


T = TypeVar("T")


class CallTimedOut(Exception):
    """The peer did not answer a call within its deadline; whether it acted on it is unknown."""


class LinkLost(Exception):
    """The connection ended before the call was answered."""


class Responders(amp.CommandLocator):
    """The base of both sides' responders: `@SomeCommand.responder` methods, plain or `async`."""

    @Ping.responder
    def ping(self) -> dict[str, Any]:
        return {}


class Link(amp.AMP):
    """An AMP connection with this project's manners.

    `lost` fires with None when it is gone, whatever the reason.
    `responders` may also be set right after construction, by a caller whose responders need the link itself.
    """

    _log = Logger(namespace="link")

    def __init__(self, clock: IReactorTime, responders: amp.CommandLocator | None = None) -> None:
        # Never AMP's default, the protocol itself: it answers StartTLS to whoever asks.
        super().__init__(locator=Responders() if responders is None else responders)
        self._clock = clock
        self._peer = "unconnected"
        self._calls: set[defer.Deferred[dict[str, Any]]] = set()
        self._pinging: LoopingCall | None = None
        self._commands_in_flight = 0  # from the peer, not answered yet
        self._bytes_in_flight = 0
        self._resuming: IDelayedCall | None = None
        self._complained = False  # of too many commands
        self._over = False
        self.connected_now = False
        self.lost: defer.Deferred[None] = defer.Deferred()

    def answer_with(self, responders: amp.CommandLocator) -> None:
        """Use these responders from now on."""
        self.locator = responders

    @property
    def peer(self) -> str:
        """The other end, as a log line names it."""
        return self._peer

    def connectionMade(self) -> None:
        super().connectionMade()
        assert self.transport is not None
        # A box of two TLS records is not held back until the peer's delayed acknowledgement of the first (40 ms).
        if (set_no_delay := getattr(self.transport, "setTcpNoDelay", None)) is not None:
            set_no_delay(True)
        self._peer = peer_name(self.transport.getPeer())
        self.connected_now = True
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = self._clock
        self._pinging.start(PING_INTERVAL_SECONDS, now=False)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected_now = False
        if self._pinging is not None and self._pinging.running:
            self._pinging.stop()
        if self._resuming is not None and self._resuming.active():
            self._resuming.cancel()
        # Before AMP fails its own Deferreds with whatever the transport said.
        why = f": {words_of(reason.value)}" if isinstance(reason.value, SSL.Error) else ""
        for waiting in list(self._calls):
            waiting.errback(Failure(LinkLost(f"connection to {self._peer} ended{why}")))
        super().connectionLost(reason)
        self.lost.callback(None)

    def abort(self) -> None:
        """Cut the connection without waiting for the peer, and take nothing more of what has come already."""
        self._over = self.paused = True
        if self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()

    async def _ping(self) -> None:
        try:
            await self.call(Ping, deadline=PING_DEADLINE_SECONDS)
        except CallTimedOut:
            self._log.warn(
                "no answer from {peer} for {seconds} s: cutting the connection",
                event="link.silent",
                peer=self._peer,
                seconds=PING_DEADLINE_SECONDS,
            )
            self.abort()
        except LinkLost:
            pass
        except amp.RemoteAmpError:
            pass  # an answer is an answer: somebody is there

    async def call(
        self, command: type[amp.Command], *, deadline: float = CALL_DEADLINE_SECONDS, **arguments: Any
    ) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises the command's declared errors, CallTimedOut after `deadline` seconds, LinkLost when the
        connection is or goes away, MalformedArgument for arguments that do not fit their types, UnknownCommand from
        a peer that is too old for it, and `amp.RemoteAmpError` for whatever else the peer could not say in the
        command's own words.
        """
        if not self.connected_now:
            raise LinkLost(f"not connected to {self._peer}")
        answer: defer.Deferred[dict[str, Any]] = defer.Deferred()

        def settle(result: Any) -> None:
            if not answer.called:
                answer.callback(result) if not isinstance(result, Failure) else answer.errback(result)

        try:
            # Deliberately two Deferreds: AMP keeps its own until the peer answers, however late.
            self.callRemote(command, **arguments).addBoth(settle)
        except amp.TooLong as error:
            raise MalformedArgument(f"an argument of {command.commandName.decode()} is too long") from error
        self._calls.add(answer)
        timer = self._clock.callLater(
            deadline,
            lambda: settle(
                Failure(CallTimedOut(f"{command.commandName.decode()}: no answer from {self._peer} in {deadline} s"))
            ),
        )
        try:
            return await answer
        except amp.UnhandledCommand as error:
            name = command.commandName.decode()
            raise UnknownCommand(f"{self._peer} is of an older version, which does not know {name}") from error
        finally:
            self._calls.discard(answer)
            if timer.active():
                timer.cancel()

    def dispatchCommand(self, box: amp.AmpBox) -> "defer.Deferred[amp.AmpBox]":
        size = sum(map(len, box.values()))
        self._commands_in_flight += 1
        self._bytes_in_flight += size
        # maybeDeferred: arguments are parsed synchronously by the responder wrapper, before it has a Deferred.
        answered: defer.Deferred[amp.AmpBox] = defer.maybeDeferred(super().dispatchCommand, box)
        answered.addCallback(_refuse_too_long)
        answered.addErrback(self._answer_undeclared, bytes(box.get(amp.COMMAND, b"?")))
        answered.addBoth(self._answered, size)
        if self._is_full() and not self.paused:
            self._read_no_further()
        return answered

    def _is_full(self) -> bool:
        return self._commands_in_flight >= MAX_COMMANDS_IN_FLIGHT or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT

    def _answered(self, result: T, size: int) -> T:
        self._commands_in_flight -= 1
        self._bytes_in_flight -= size
        waits_to_read = self.paused and self.connected_now and not self._over
        if waits_to_read and self._resuming is None and not self._is_full():
            # Not on the spot: it may be the parser of boxes that is at work here, which bears no second one inside.
            self._resuming = self._clock.callLater(0, self._read_on)
        return result

    def _read_no_further(self) -> None:
        if not self._complained:
            self._complained = True  # once: a peer that goes on like this would fill the log, too
            self._log.warn(
                "{peer} waits for the answers to {commands} commands: reading no more of them for now",
                event="link.crowded",
                peer=self._peer,
                commands=self._commands_in_flight,
            )
        self.pauseProducing()

    def _read_on(self) -> None:
        self._resuming = None
        if not self._over:
            self.resumeProducing()

    def _answer_undeclared(self, failure: Failure, command: bytes) -> Failure:
        name = command[:64].decode("ascii", "replace")
        if failure.check(amp.RemoteAmpError):
            return _shortened(failure)
        if failure.check(MalformedArgument):
            self._log.warn(
                "{peer} sent a malformed {command}: {reason}",
                event="link.malformed",
                peer=self._peer,
                command=name,
                reason=str(failure.value)[:500],
            )
            return Failure(amp.RemoteAmpError(MALFORMED_ARGUMENT_CODE, str(failure.value)[:500], False))
        reference = uuid4().hex[:12]
        self._log.failure(
            "{command} from {peer} failed here, reference {reference}",
            failure,
            event="link.responder-failed",
            peer=self._peer,
            command=name,
            reference=reference,
        )
        return Failure(amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, f"internal error, reference {reference}", False))

    def unhandledError(self, failure: Failure) -> None:
        # Reached for boxes that answer nothing that was asked, and the like: the peer does not speak AMP.
        self._log.warn(
            "{peer} broke the protocol: {reason}",
            event="link.broken",
            peer=self._peer,
            reason=str(failure.value)[:500],
        )
        self.abort()

    def proto_value(self, string: bytes) -> str:
        # A box has no end of its own: without a limit one peer's single box takes all memory.
        assert self._currentBox is not None  # a value follows a key, and a key makes the box
        if len(self._currentBox) >= MAX_BOX_KEYS:
            raise amp.InvalidSignature(f"a box of more than {MAX_BOX_KEYS} keys")
        state: str = super().proto_value(string)
        return state

    def lengthLimitExceeded(self, length: int) -> None:
        self.unhandledError(Failure(amp.InvalidSignature(f"a key of {length} bytes")))

    def dataReceived(self, data: bytes) -> None:
        # Random bytes end in KeyError or NoEmptyBoxes here; Twisted would log a traceback for each.
        try:
            super().dataReceived(data)
        except Exception:
            self.unhandledError(Failure())


def _shortened(failure: Failure) -> Failure:
    """An error whose words fit in a box: AMP drops the connection for one that does not."""
    error = failure.value
    assert isinstance(error, amp.RemoteAmpError)
    if len(error.description) <= MAX_DESCRIPTION_LENGTH:
        return failure
    return Failure(amp.RemoteAmpError(error.errorCode, error.description[:MAX_DESCRIPTION_LENGTH], error.fatal))


def _refuse_too_long(box: amp.AmpBox) -> amp.AmpBox:
    for key, value in box.items():
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"the response's {key!r} has {len(value)} bytes")
    return box


def peer_name(address: Any) -> str:
    """An address as a log line names it."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name = getattr(address, "name", None)
    return f"unix:{name.decode(errors='replace')}" if name else "unix socket"
