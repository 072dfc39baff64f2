"""How often who was refused: who was revoked comes again for as long as it runs, and is told of less and less often."""

from typing import Final

MAX_REMEMBERED: Final = 10_000  # names; on a plain link anybody may say any


class Refusals:
    """Refusals in a row, by the name of whoever is refused."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def add(self, name: str, reason: str) -> int:
        """How often it was refused for this reason by now. Another reason is counted anew."""
        known, times = self._last.pop(name, (reason, 0))
        if len(self._last) >= MAX_REMEMBERED:
            del self._last[next(iter(self._last))]  # who was refused the longest ago
        self._last[name] = (reason, times + 1 if known == reason else 1)
        return self._last[name][1]

    def let_in(self, name: str) -> None:
        """What comes next is news."""
        self._last.pop(name, None)
