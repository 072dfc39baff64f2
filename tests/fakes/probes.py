"""Probes that know who uses which address, for tests of the claims that are probed."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from clusterd.protocol.values import AddressInUse
from regiond.use_cases.probes import CannotProbe, Probed


class FakeProbes:
    """`squatters` are MAC addresses by address; `asked` are the questions so far; `cluster` is who answers.

    With `reasons` nobody can be asked; held ones are answered by `let_go`.
    """

    def __init__(self, cluster: int = 0) -> None:
        self.cluster = cluster
        self.squatters: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []
        self.reasons: list[str] = []
        self._held: list[Deferred[None]] | None = None

    @property
    def held(self) -> int:
        return len(self._held or ())

    def hold(self) -> None:
        self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for one in held:
            one.callback(None)

    async def ask(self, subnet: int, addresses: Sequence[str]) -> Probed:
        self.asked.append(tuple(addresses))
        if self._held is not None:
            turn: Deferred[None] = Deferred()
            self._held.append(turn)
            await turn
        if self.reasons:
            raise CannotProbe(self.reasons)
        return Probed(self.cluster, [AddressInUse(a, self.squatters[a]) for a in addresses if a in self.squatters])
