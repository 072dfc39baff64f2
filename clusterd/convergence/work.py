"""What the driver is at: the input of one apply, and subnets that have to leave the server."""

from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.convergence.plan import Key, Transition
from clusterd.protocol.errors import ServerRefused


@dataclass(slots=True)
class Forgetting:
    """A subnet whose host maps have to leave the server, and who waits for that."""

    cidr: str | None
    waiting: list[Deferred[None]] = field(default_factory=list)

    def fail(self, words: str) -> None:
        """Tell those who wait that it is not done, which may be tried again. They get ServerRefused."""
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.errback(Failure(ServerRefused(words)))


@dataclass(frozen=True, slots=True)
class Work:
    """The input of one apply, as it was when it was taken. Of the subnets in `behind` something is left for later."""

    whole: bool
    transitions: dict[Key, Transition]
    records: dict[str, SubnetRecord]
    forgetting: dict[str, Forgetting]
    behind: frozenset[str] = frozenset()
