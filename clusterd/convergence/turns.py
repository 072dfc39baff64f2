"""Which of the noted changes go to the DHCP server now, and which wait because it pauses for them; pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clusterd.convergence.plan import Key, Transition


@dataclass(frozen=True, slots=True)
class Turn:
    """`waiting` are left for a later turn: the first of them may go in `seconds`, or there are none."""

    due: dict[Key, Transition]
    waiting: dict[Key, Transition]
    seconds: float = 0.0

    @property
    def waiting_subnets(self) -> frozenset[str]:
        """The subnets of which something is left."""
        return frozenset(subnet for subnet, _ in self.waiting)


def take_turn(pending: Mapping[Key, Transition], pause: Callable[[Transition], float]) -> Turn:
    """Divide what is pending. `pause` answers for how many seconds the server pauses for a change, 0.0 for not at all.

    What gives an address to a client waits, too, as long as something waits that takes it from another one.
    """
    pauses = {key: seconds for key, change in pending.items() if (seconds := pause(change)) > 0}
    if not pauses:
        return Turn(dict(pending), {})
    takers: dict[str, list[Key]] = {}
    for key, change in pending.items():
        if change.after is not None:
            takers.setdefault(change.after.address, []).append(key)
    waiting = set(pauses)
    behind = list(waiting)
    while behind:
        change = pending[behind.pop()]
        if change.before is not None:
            more = [key for key in takers.get(change.before.address, ()) if key not in waiting]
            waiting.update(more)
            behind += more
    return Turn(
        {key: change for key, change in pending.items() if key not in waiting},
        {key: change for key, change in pending.items() if key in waiting},
        min(pauses.values()),
    )
