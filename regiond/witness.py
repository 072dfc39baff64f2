"""Notices that the database went back in time: a backup was restored, or a failover lost commits.

Each regiond counts a number up in the database and keeps a copy in its state directory. A database whose number is not
above the copy is an earlier one. It counts once more at an orderly stop. What falls between two beats is noticed by who
committed it, when it connects anew (`storage.last_batch`); if that regiond was killed, too, the clusters know it.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from regiond.storage.errors import DatabaseUnavailable

WITNESS_SECONDS: Final = 2.0
LAST_BEAT_SECONDS: Final = 1.0


class Beats(Protocol):
    """`storage.recovery.RecoveryStore`."""

    async def beat(self, regiond: str) -> tuple[int, str]: ...


class Begin(Protocol):
    """`Hearing.begin_anew`."""

    async def __call__(self, reason: str, of_history: str | None, /) -> None: ...


class Memory(Protocol):
    """Where the copy is kept: `WitnessFile`."""

    def recall(self, region: str) -> tuple[str, int] | None: ...

    def remember(self, region: str, regiond: str, beats: int) -> None: ...


class Witness:
    """One regiond's count, and its copy in `memory`. `seen` hears of the history at each beat."""

    def __init__(
        self, memory: Memory, region: str, store: Beats, begin: Begin, seen: Callable[[str], None] | None = None
    ) -> None:
        self._memory = memory
        self._region = region
        self._store = store
        self._begin = begin
        self._seen = seen
        self._regiond, self._kept = memory.recall(region) or (str(uuid4()), 0)

    async def beat(self) -> None:
        """Count up, and begin a recovery when the database has less than it should."""
        beats, history = await self._store.beat(self._regiond)
        if beats <= self._kept:
            reason = f"the database counts {beats} where this regiond had seen {self._kept}: it is an earlier one"
            await self._begin(reason, history)
        elif self._seen is not None:
            self._seen(history)
        self._kept = beats
        self._memory.remember(self._region, self._regiond, beats)

    async def last_beat(self, clock: IReactorTime) -> None:
        """At an orderly stop, which does not wait long for a database that is away."""
        beat = Deferred.fromCoroutine(self.beat())
        with suppress(DatabaseUnavailable, defer.TimeoutError):
            await beat.addTimeout(LAST_BEAT_SECONDS, clock)


class WitnessFile:
    """A file in the state directory. The copy of another region's database counts for nothing."""

    _log = Logger(namespace="region.recovery")

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self, region: str) -> tuple[str, int] | None:
        """This regiond's name in the database, and its count there; None where nothing is kept."""
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["region"] == region:
                return str(kept["regiond"]), int(kept["beats"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.warn(
                "cannot read {file}: {reason}", event="recovery.witness-unread", file=str(self._file), reason=str(error)
            )
        return None

    def remember(self, region: str, regiond: str, beats: int) -> None:
        """Durably. A file that cannot be written is told of, and nothing else."""
        content: dict[str, Any] = {"region": region, "regiond": regiond, "beats": beats}
        fresh = self._file.with_suffix(".new")
        try:
            with open(fresh, "w", encoding="utf-8", opener=_private) as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._file)
        except OSError as error:
            self._log.warn(
                "cannot write {file}: {reason}",
                event="recovery.witness-unkept",
                file=str(self._file),
                reason=str(error),
            )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
