"""One AMP connection between a cluster and the region: deadlines, undeclared errors, keep-alive.

What AMP does by itself and what is needed here differ in six places (all reproduced on Twisted 26.10):

* an exception that a command does not declare, in a responder, closes the connection. Here it is answered as
  an unknown error with a reference that is also in this side's log;
* a response that is too long closes the connection. Here it is such an error too;
* arguments that do not parse are answered as `MALFORMED_ARGUMENT` and logged with the peer's name;
* `callRemote` waits for ever. `Link.call` has a deadline;
* what a peer does not know is an error that is neither declared nor a `RemoteAmpError`. Here it is a ProtocolError;
* commands are taken as fast as they come, however many wait to be answered, or for their answers to be read. Here a
  peer is read from no further while too many do, or too large ones: its commands then wait in its own buffers. If it
  reads no answers at all it cannot be heard answering a ping either, and is cut.
"""

from typing import Any, TypeVar, cast
from uuid import uuid4

from OpenSSL import SSL
from twisted.internet import defer
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.daemon.mutual_tls import words_of
from clusterd.protocol.arguments import MAX_VALUE_BYTES
from clusterd.protocol.commands import Ping
from clusterd.protocol.errors import MALFORMED_ARGUMENT_CODE, MalformedArgument, UnknownCommand

PING_INTERVAL_SECONDS = 30.0
PING_DEADLINE_SECONDS = 10.0
CALL_DEADLINE_SECONDS = 15.0
MAX_BOX_KEYS = 64
MAX_BOX_BYTES = 1 << 20  # of its values: those of the largest command have at most nine times 64 KiB
MAX_DESCRIPTION_LENGTH = 2000
MAX_COMMANDS_IN_FLIGHT = 256
MAX_BYTES_IN_FLIGHT = 16 << 20  # of the values of these commands, and of answers that have not left


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

    `made` fires with None when it is there, `lost` when it is gone, whatever the reason.
    `responders` may also be set right after construction, by a caller whose responders need the link itself. A box with
    more than `max_box_bytes` of values ends the connection; while `max_commands` of the peer's wait, no more are read.
    """

    _log = Logger(namespace="link")

    def __init__(
        self,
        clock: IReactorTime,
        responders: amp.CommandLocator | None = None,
        max_box_bytes: int = MAX_BOX_BYTES,
        max_commands: int = MAX_COMMANDS_IN_FLIGHT,
    ) -> None:
        # Never AMP's default, the protocol itself: it answers StartTLS to whoever asks.
        super().__init__(locator=Responders() if responders is None else responders)
        self._clock = clock
        self._max_box_bytes = max_box_bytes
        self._max_commands = max_commands
        self._peer = "unconnected"
        self._calls: set[defer.Deferred[dict[str, Any]]] = set()
        self._pinging: LoopingCall | None = None
        self._commands_in_flight = 0  # from the peer: not answered yet, or the answer has not left
        self._bytes_in_flight = 0
        self._is_stuffed = False  # the peer does not read as fast as it is written to
        self._unsent: list[int] = []  # the sizes of what was answered since
        self._malformed = 0  # commands so far
        self._resuming: IDelayedCall | None = None
        self._complained = False  # of too many commands
        self._over = False
        self.connected_now = False
        self.made: defer.Deferred[None] = defer.Deferred()
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
        if (register_producer := getattr(self.transport, "registerProducer", None)) is not None:
            register_producer(_Outgoing(self), True)
        self._peer = peer_name(self.transport.getPeer())
        self.connected_now = True
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = self._clock
        self._pinging.start(PING_INTERVAL_SECONDS, now=False)
        self.made.callback(None)

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
        return self._commands_in_flight >= self._max_commands or self._bytes_in_flight >= MAX_BYTES_IN_FLIGHT

    def _answered(self, result: T, size: int) -> T:
        if self._is_stuffed:
            answer = sum(map(len, result.values())) if isinstance(result, amp.AmpBox) else 0
            self._bytes_in_flight += answer
            self._unsent.append(size + answer)
        else:
            self._over_with([size])
        return result

    def stuffed(self) -> None:
        """Not all that was written has left: from now on an answer counts until it has."""
        self._is_stuffed = True

    def unstuffed(self) -> None:
        """All that was written has left."""
        unsent, self._unsent, self._is_stuffed = self._unsent, [], False
        self._over_with(unsent)

    def _over_with(self, sizes: list[int]) -> None:
        self._commands_in_flight -= len(sizes)
        self._bytes_in_flight -= sum(sizes)
        waits_to_read = self.paused and self.connected_now and not self._over
        if waits_to_read and self._resuming is None and not self._is_full():
            # Not on the spot: it may be the parser of boxes that is at work here, which bears no second one inside.
            self._resuming = self._clock.callLater(0, self._read_on)

    def _read_no_further(self) -> None:
        if not self._complained:
            self._complained = True  # once: a peer that goes on like this would fill the log, too
            self._log.warn(
                "{peer} has {commands} commands that wait to be answered, or whose answers it has not read: reading no "
                "more of them for now",
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
            self._malformed += 1
            if self._malformed & (self._malformed - 1) == 0:  # less and less often: the peer must not fill the log
                self._log.warn(
                    "{peer} sent a malformed {command}, its {times}. malformed command: {reason}",
                    event="link.malformed",
                    peer=self._peer,
                    command=name,
                    times=self._malformed,
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
        if sum(map(len, self._currentBox.values())) + len(string) > self._max_box_bytes:
            raise amp.InvalidSignature(f"a box of more than {self._max_box_bytes} bytes")
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


@implementer(IPushProducer)
class _Outgoing:
    """What the transport tells when it has more to send than it likes to keep, and when all of it has left."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def pauseProducing(self) -> None:
        self._link.stuffed()

    def resumeProducing(self) -> None:
        self._link.unstuffed()

    def stopProducing(self) -> None:
        """The connection is over, which the link hears of by itself."""


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
