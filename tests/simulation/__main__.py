"""`python -m tests.simulation`: tell stories for some time, or those of a seed, or one."""

import argparse
import sys
import time
from collections.abc import Sequence
from random import SystemRandom

from twisted.logger import globalLogBeginner

from tests.simulation.runs import STORIES_PER_SEED, run_seed
from tests.simulation.stories import Story
from tests.simulation.teller import tell
from tests.simulation.told_first import TOLD_FIRST


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the stories of this seed, and then of no other")
    parser.add_argument("--from-seed", type=int, help="begin with this seed (default: any)")
    parser.add_argument("--story", help="this story, as a failure prints it")
    parser.add_argument("--seconds", type=float, default=20.0, help="as long as this, seed after seed (default 20)")
    given = parser.parse_args(arguments)
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if given.story is not None:
        tell(Story.read(given.story))
        print("the story ends well")
        return 0
    end = time.monotonic() + given.seconds
    chosen = [seed for seed in (given.seed, given.from_seed) if seed is not None]
    seed = chosen[0] if chosen else SystemRandom().randrange(1_000_000)
    told = 0
    for words, text in TOLD_FIRST.items() if given.seed is None else ():
        try:
            tell(Story.read(text))
        except Exception as error:
            print(f"{type(error).__name__}: {error}\n\nnot so: {words}\npython -m tests.simulation --story '{text}'")
            return 1
    print(f"seed {seed}", flush=True)
    while told == 0 or (given.seed is None and time.monotonic() < end):
        failure = run_seed(seed)
        if failure is not None:
            print(failure)
            return 1
        told += STORIES_PER_SEED
        seed += 1
    print(f"{told} stories end well")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
