"""Notices that the database went back in time: a backup was restored, or a failover lost commits.

Each regiond counts a number up in the database and keeps a copy in its state directory. A database whose number is not
above the copy is an earlier one. What falls between two beats may go unnoticed here; the clusters know it then.
"""

import json
import os
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

from twisted.logger import Logger

WITNESS_SECONDS: Final = 2.0


class Beats(Protocol):
    """`storage.recovery.RecoveryStore`."""

    async def beat(self, regiond: str) -> tuple[int, str]: ...


class Begin(Protocol):
    """`Hearing.begin`."""

    async def __call__(self, reason: str, of_history: str | None, /) -> None: ...


class Witness:
    """One regiond's count and its copy in `file`. A copy of another region's database counts for nothing."""

    _log = Logger(namespace="region.recovery")

    def __init__(self, file: Path, region: str, store: Beats, begin: Begin) -> None:
        self._file = file
        self._region = region
        self._store = store
        self._begin = begin
        self._regiond, self._kept = self._recall()

    async def beat(self) -> None:
        """Count up, and begin a recovery when the database has less than it should."""
        beats, history = await self._store.beat(self._regiond)
        if beats <= self._kept:
            reason = f"the database counts {beats} where this regiond had seen {self._kept}: it is an earlier one"
            await self._begin(reason, history)
        self._kept = beats
        self._remember()

    def _recall(self) -> tuple[str, int]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            if kept["region"] == self._region:
                return str(kept["regiond"]), int(kept["beats"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.warn(
                "cannot read {file}: {reason}", event="recovery.witness-unread", file=str(self._file), reason=str(error)
            )
        return str(uuid4()), 0

    def _remember(self) -> None:
        content: dict[str, Any] = {"region": self._region, "regiond": self._regiond, "beats": self._kept}
        fresh = self._file.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
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
