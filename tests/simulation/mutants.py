"""`python -m tests.simulation.mutants`: break the daemons in a copy, one rule at a time, and see whether it is noticed.

A line of the code that is not found any more is an error: the mutant has to follow the code.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
PARTS = ("clusterd", "regiond", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """A rule that is broken by replacing `old`, which is in the file once."""

    rule: str
    file: str
    old: str
    new: str


# Three rules have no mutant here. That unfinished transfers are discarded when another connection registers frees their
# disk space and nothing else: every connection begins its own transfers, which discards what is left of an earlier one.
# That a dispatcher looks once more before it tells a cluster to forget makes a window smaller that cannot be closed, in
# which a cluster loses for a moment what it is to serve again; `test_host_map_dispatch.py` has the case.
# That responders refuse reports on a superseded connection is one of three locks on that door: the connection is cut,
# too, and what is recorded carries the connection's number, which is the one that counts. The same file has the case.
MUTANTS = (
    Mutant(
        "a difference continues the accepted generation",
        "clusterd/convergence/acceptance.py",
        "if announced.from_generation != accepted:",
        "if False:",
    ),
    Mutant(
        "the digest is compared before anything is stored",
        "clusterd/host_maps/store.py",
        "if digest != announced.digest:",
        "if False:",
    ),
    Mutant(
        "a snapshot below the accepted generation is refused",
        "clusterd/convergence/acceptance.py",
        "if announced.to_generation < accepted:",
        "if False:",
    ),
    Mutant(
        "accepted is answered when it is stored",
        "clusterd/region_link/responders.py",
        "        generation = await self._accepted.apply_host_maps(\n"
        "            history, subnet, cidr, from_generation, to_generation, digest, upserts, removals, request_ids\n"
        "        )\n",
        "        generation = to_generation\n"
        "        Deferred.fromCoroutine(self._accepted.apply_host_maps(\n"
        "            history, subnet, cidr, from_generation, to_generation, digest, upserts, removals, request_ids\n"
        "        )).addErrback(lambda _: None)\n",
    ),
    Mutant(
        "a removal is confirmed when it is applied, not when it is accepted",
        "regiond/domain/overlay.py",
        "(d.applied_generation for d in",
        "(d.accepted_generation for d in",
    ),
    Mutant(
        "a removal is confirmed by every holder",
        "regiond/domain/overlay.py",
        "return min(holding, default=",
        "return max(holding, default=",
    ),
    Mutant(
        "who is draining is a holder",
        "regiond/domain/overlay.py",
        'HOLDING_ROLES = ("serving", "draining")',
        'HOLDING_ROLES = ("serving",)',
    ),
    Mutant(
        "an address rests for the release hold",
        "regiond/domain/plan.py",
        "and resting.free_at <= facts.now",
        "and resting.free_at is not None",
    ),
    Mutant(
        "only an identifier's own releasing address is taken back",
        "regiond/domain/plan.py",
        "            and self.identifiers_of(holder, removed=True) | holder.identifiers <= set(claim.identifiers)\n",
        "",
    ),
    Mutant(
        "a cluster that registers says what it really has",
        "regiond/host_map_dispatch/arrivals.py",
        "state.subnet, accepted, applied, reset=True, epoch",
        "state.subnet, accepted, applied, epoch",
    ),
    Mutant(
        "a cluster is no holder any more when it has forgotten, not before",
        "regiond/host_map_dispatch/dispatch.py",
        "        await self._calls.forget(target.connection, target.subnet, target.cidr)\n"
        "        await self._record(Forgotten(cluster, target.subnet, target.connection.epoch))\n",
        "        await self._record(Forgotten(cluster, target.subnet, target.connection.epoch))\n"
        "        await self._calls.forget(target.connection, target.subnet, target.cidr)\n",
    ),
    Mutant(
        "what nobody was told of is found by the sweep",
        "regiond/host_map_dispatch/dispatch.py",
        "for state in await self._reads.stragglers(list(self._ready)):",
        "for state in ():",
    ),
    Mutant(
        "a delivery that failed is tried again",
        "regiond/host_map_dispatch/dispatch.py",
        "        target.backing_off = False\n        self._kick_if_current(target)\n",
        "        pass\n",
    ),
    Mutant(
        "a superseded connection's interfaces are nobody's",
        "regiond/host_map_dispatch/dispatch.py",
        "reports, connection.epoch)",
        "reports, 1 << 62)",
    ),
    Mutant(
        "a removal that the server refused holds applied back",
        "clusterd/convergence/convergence.py",
        "            and self._refused.why_held_back(record.cidr) is None\n",
        "",
    ),
    Mutant(
        "applied does not pass a change that waits for the server's pause",
        "clusterd/convergence/convergence.py",
        "            and subnet not in work.behind\n",
        "",
    ),
    Mutant(
        "applied is what was accepted when the apply began",
        "clusterd/convergence/convergence.py",
        "            for subnet, record in work.records.items()\n",
        "            for subnet, record in self._records.items()\n",
    ),
    Mutant(
        "what came during a comparison is part of it",
        "clusterd/convergence/convergence.py",
        "                work = self._joined(work)\n",
        "",
    ),
    Mutant(
        "the whole sets are compared at start",
        "clusterd/convergence/convergence.py",
        "        self._compare = True\n        self._forgetting: dict",
        "        self._compare = False\n        self._forgetting: dict",
    ),
    Mutant(
        "the whole sets are compared after an error",
        "clusterd/convergence/convergence.py",
        "self._compare, self._error = True, words",
        "self._compare, self._error, self._news = False, words, True",
    ),
    Mutant(
        "a subnet is forgotten when the server has none of it",
        "clusterd/convergence/convergence.py",
        "        self._kick()\n        await gone\n",
        "        self._kick()\n        gone.addErrback(lambda _: None)\n",
    ),
    Mutant(
        "the states are told to a region that comes back",
        "clusterd/host_maps/states.py",
        "        self._unreported = dict.fromkeys(self._current)\n",
        "        self._unreported = {}\n",
    ),
    Mutant(
        "nobody is listened to on a connection that is over",
        "clusterd/region_link/responders.py",
        "if self._over:",
        "if False:",
    ),
    Mutant(
        "a lease that may be left is on disk",
        "clusterd/convergence/convergence.py",
        "self._store.former_leases(),",
        "frozenset(),",
    ),
    Mutant(
        "a lease is owed before the removal is accepted",
        "clusterd/host_maps/tables.py",
        "if change.before is not None and (change.after",
        "if False and (change.after",
    ),
    Mutant(
        "removed host maps are in a difference",
        "regiond/storage/batch_changes.py",
        '"removed": row.removed,',
        '"removed": False,',
    ),
    Mutant(
        "the witness notices that the database went back",
        "regiond/witness.py",
        "if beats <= self._kept:",
        "if False:",
    ),
    Mutant(
        "a recovery that is restored into the middle of another one begins anew",
        "regiond/hearing.py",
        "await self._begin(reason, of_history, anew=True)",
        "await self._begin(reason, of_history, anew=False)",
    ),
    Mutant(
        "what a cluster has of several pasts is all heard",
        "regiond/hearing.py",
        "for subnet in dict.fromkeys([*subnets, *await self._store.may_have(connection.cluster)]):",
        "for subnet in subnets:",
    ),
    Mutant(
        "a cluster is heard before anything is delivered to it",
        "regiond/host_map_dispatch/arrivals.py",
        "if evidence is not None:",
        "if False:",
    ),
    Mutant(
        "who was not heard because the database was away comes again",
        "regiond/host_map_dispatch/arrivals.py",
        "                connection.link.abort()  # no sweep",
        "                pass  # no sweep",
    ),
    Mutant(
        "what the newest state of a cluster says is reserved again",
        "regiond/domain/recovery.py",
        "if candidate.newest and not candidate.former and unseen and candidate.identifier not in placed:",
        "if False:",
    ),
    Mutant(
        "what is accepted as removed and not done is handed up",
        "regiond/hearing.py",
        "taken.former = await self._take_former(connection, subnet, taken.cidr)",
        "pass",
    ),
    Mutant(
        "a subnet that is being forgotten is handed up, too",
        "clusterd/host_maps/accepted.py",
        "if session is None or record is None:",
        "if session is None or record is None or record.forgetting:",
    ),
    Mutant(
        "who is being removed displaces whom the backup knows there",
        "regiond/domain/recovery.py",
        "        if occupant.active and came_later:\n",
        "        if occupant.active:\n",
    ),
    Mutant(
        "who has an address of the lost past displaces whom the backup knows there",
        "regiond/domain/recovery.py",
        "    return seen and occupant.before_fork",
        "    return False",
    ),
    Mutant(
        "a removal is of the generation that has it",
        "regiond/domain/plan.py",
        "release_generation=subnet.generation + 1",
        "release_generation=subnet.generation",
    ),
    Mutant(
        "an address that nobody holds any more rests for the hold",
        "regiond/domain/plan.py",
        "subnet.hold_seconds if subnet.was_served else 0",
        "0",
    ),
    Mutant(
        "generations of another past are no base",
        "regiond/host_map_dispatch/arrivals.py",
        "if past is not Past.OURS:",
        "if False:",
    ),
    Mutant(
        "what another origin has accepted is nothing to build on",
        "clusterd/convergence/acceptance.py",
        "record.origin == announced.origin and not record.forgetting",
        "not record.forgetting",
    ),
    Mutant(
        "a cluster is heard when it has handed everything up",
        "regiond/hearing.py",
        "if failed and not await self._store.waits_for(connection.cluster):",
        "if failed:",
    ),
    Mutant(
        "a cluster that is ahead of the region has another past",
        "regiond/host_map_dispatch/arrivals.py",
        "elif is_beyond(row, generation):",
        "elif False:",
    ),
)


def main(arguments: Sequence[str]) -> int:
    """How many mutants lived."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each may try to live (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="where each search begins (default 1)")
    parser.add_argument("words", nargs="*", help="only the rules with one of these words")
    given = parser.parse_args(arguments)
    lived = 0
    for mutant in MUTANTS:
        if given.words and not any(word in mutant.rule for word in given.words):
            continue
        began = time.monotonic()
        found = _found(mutant, given.seconds, given.seed)
        lived += found is None
        seconds = f"{time.monotonic() - began:4.0f} s"
        print(f"{seconds}  {'LIVED ' if found is None else 'caught'}  {mutant.rule}", flush=True)
        if found is not None:
            print(f"               {found[:200]}", flush=True)
    return lived


def _found(mutant: Mutant, seconds: float, seed: int) -> str | None:
    """What the simulation said of it, or None."""
    with TemporaryDirectory(prefix="hostmap-mutant-") as directory:
        copy = Path(directory)
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / part, copy / part)
        broken = copy / mutant.file
        text = broken.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.file} has these words {text.count(mutant.old)} times: {mutant.old}")
        broken.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "tests.simulation", "--from-seed", str(seed), "--seconds", str(seconds)]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return None
        lines = [line for line in run.stdout.splitlines() if line and not line.startswith("seed ")]
        return lines[0] if lines else run.stderr[-200:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
