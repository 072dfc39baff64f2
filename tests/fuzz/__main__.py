"""`python -m tests.fuzz`: many inputs against both daemons."""

import argparse
import resource
import sys
from collections.abc import Sequence
from random import SystemRandom

from twisted.logger import globalLogBeginner

from tests.fuzz.targets import TARGETS, attack

MOST_MB = 150  # resident at the end, interpreter and all


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, over all listeners (default 100,000)")
    parser.add_argument("--seed", type=int, help="the same inputs again (default: any)")
    given = parser.parse_args(arguments)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    seed = given.seed if given.seed is not None else SystemRandom().randrange(1_000_000)
    print(f"python -m tests.fuzz --inputs {given.inputs} --seed {seed}", flush=True)
    for target in TARGETS:
        each = -(-given.inputs // len(TARGETS))  # no fewer than asked for
        connections = attack(target, seed, each)
        print(f"{target.name}: {each} inputs over {connections} connections; {most_memory_mb():.0f} MB", flush=True)
    if most_memory_mb() > MOST_MB:
        print(f"that is more than {MOST_MB} MB")
        return 1
    return 0


def most_memory_mb() -> float:
    """The most that was resident so far (getrusage(2): kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
