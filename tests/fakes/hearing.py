"""What the dispatcher hears clusters by, scripted: recoveries are noted and nothing more."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from regiond.cluster_rpc.connections import Connection


@dataclass
class FakeHearing:
    """`begun` are the reasons of recoveries; `other_pasts` the subnets whose host maps are of another past."""

    begun: list[str] = field(default_factory=list)
    expected: list[tuple[str, str]] = field(default_factory=list)
    heard: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    examined: list[int] = field(default_factory=list)
    other_pasts: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    generations: dict[int, int] = field(default_factory=dict)  # 1000 for every other subnet
    until: Deferred[None] | None = None

    async def begin(self, reason: str, of_history: str | None) -> None:
        self.begun.append(reason)

    async def expects(self, connection: Connection, history: str) -> None:
        self.expected.append((connection.name, history))

    async def generation(self, subnet: int) -> int | None:
        return None if subnet in self.unknown else self.generations.get(subnet, 1000)

    async def hear(self, connection: Connection, subnets: Sequence[int]) -> None:
        if self.until is not None:
            await self.until
        self.heard.append((connection.name, tuple(subnets)))

    async def has_another_past(self, connection: Connection, subnet: int) -> bool:
        self.examined.append(subnet)
        if subnet in self.other_pasts:
            self.begun.append("another past")
        return subnet in self.other_pasts
