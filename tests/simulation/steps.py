"""What can happen next. Whatever takes time in the real world is a step here, and a story says which one comes."""

from collections import deque
from collections.abc import Callable
from random import Random

from twisted.internet.defer import Deferred

Step = Callable[[], None]


class Process:
    """One life of a daemon. Nothing that it began goes on when it has ended."""

    def __init__(self) -> None:
        self.alive = True


# How often a queue is chosen, compared with the others: some are so slow that all else is done before.
_SPEEDS = (0.01, 0.1, 1.0, 1.0, 5.0)


class Steps:
    """Queues of steps: within one the order is kept, between them anything may come first.

    Queues differ in speed, which changes with `new_speeds`. A frozen queue keeps its steps until it is thawed.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[tuple[Process | None, Step]]] = {}
        self._frozen: set[str] = set()
        self._speeds: dict[str, float] = {}
        self._never_done: list[Step] = []  # of processes that ended; see Note [Former lives]
        self._numbers = 0
        self.done = 0

    def add(self, queue: str, step: Step, process: Process | None = None) -> None:
        """To be done after what is in the queue, unless the process ends before."""
        self._queues.setdefault(queue, deque()).append((process, step))

    def turn(self, queue: str, process: Process) -> "Deferred[None]":
        """Fires as a step of this queue."""
        turn: Deferred[None] = Deferred()
        self.add(queue, lambda: turn.callback(None), process)
        return turn

    def own_queue(self, name: str) -> str:
        """A new queue, for what keeps no order with anything else."""
        self._numbers += 1
        return f"{name} {self._numbers}"

    def new_speeds(self) -> None:
        """What was slow may be quick from now on."""
        self._speeds.clear()

    def freeze(self, queue: str) -> None:
        self._frozen.add(queue)

    def thaw(self, queue: str) -> None:
        self._frozen.discard(queue)

    def ready(self) -> list[str]:
        """The queues with something to do, in a fixed order."""
        for queue in [queue for queue, steps in self._queues.items() if not steps]:
            del self._queues[queue]
        return [queue for queue in self._queues if queue not in self._frozen]

    def run_one(self, random: Random) -> str | None:
        """Do one step of any queue; the name of the queue, or None when there is none."""
        ready = self.ready()
        if not ready:
            return None
        for queue in ready:
            if queue not in self._speeds:
                self._speeds[queue] = random.choice(_SPEEDS)
        (queue,) = random.choices(ready, [self._speeds[queue] for queue in ready])
        self.run_of(queue)
        return queue

    def run_of(self, queue: str) -> None:
        """Do the first step of this queue, frozen or not; nothing when it is empty."""
        steps = self._queues.get(queue)
        if steps:
            process, step = steps.popleft()
            self.done += 1
            if process is None or process.alive:
                step()
            else:
                self._never_done.append(step)
