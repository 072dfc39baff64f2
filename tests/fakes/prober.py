"""A prober that knows who uses which address: for tests of everything around the real one."""

from collections.abc import Sequence

from clusterd.protocol.errors import NotProbed
from clusterd.protocol.values import AddressInUse


class FakeProber:
    """`squatters` are MAC addresses by address; `asked` are the questions so far. With `refusal` it cannot ask.

    `unasked` is what it says beside what it was asked for.
    """

    def __init__(self) -> None:
        self.squatters: dict[str, str] = {}
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []
        self.refusal: str | None = None
        self.unasked: list[AddressInUse] = []

    async def probe(self, nic: str, cidr: str, addresses: Sequence[str], seconds: float) -> list[AddressInUse]:
        self.asked.append((nic, cidr, tuple(addresses)))
        if self.refusal is not None:
            raise NotProbed(self.refusal)
        found = [AddressInUse(each, self.squatters[each]) for each in addresses if each in self.squatters]
        return found + self.unasked
