"""`python -m tests.fuzz`: many inputs against both daemons."""

import argparse
import sys
from collections.abc import Sequence
from random import SystemRandom

from twisted.logger import globalLogBeginner

from tests.fuzz.targets import ClusterTarget, RegionTarget, attack


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, over both daemons (default 100,000)")
    parser.add_argument("--seed", type=int, help="the same inputs again (default: any)")
    given = parser.parse_args(arguments)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    seed = given.seed if given.seed is not None else SystemRandom().randrange(1_000_000)
    print(f"python -m tests.fuzz --inputs {given.inputs} --seed {seed}", flush=True)
    for target in (RegionTarget, ClusterTarget):
        connections = attack(target, seed, given.inputs // 2)
        print(f"{target.name}: {given.inputs // 2} inputs over {connections} connections", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
