"""`python -m tests.chaos --seconds 300 --seed 7`: the storm, as long as wanted; the last line says how it ended.

`--play failover` is the promotion of a standby.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.chaos.failover import Failover, FailoverPlay
from tests.chaos.storm import Report, Storm


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--play", choices=("storm", "failover"), default="storm")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long things are killed (default 300)")
    parser.add_argument("--seed", type=int, default=None, help="who is killed when, and what clients want")
    return parser.parse_args()


async def _main(reactor: Any, arguments: argparse.Namespace) -> None:
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    again = f"python -m tests.chaos --play {arguments.play} --seconds {arguments.seconds:g} --seed {seed}"
    print(f"again with: {again}", file=sys.stderr, flush=True)
    directory = Path(tempfile.mkdtemp(prefix="hostmap-chaos-"))
    directory.chmod(0o711)
    print(f"logs and data, kept if it fails: {directory}", file=sys.stderr, flush=True)
    report: Report | Failover
    if arguments.play == "storm":
        report = await Storm(reactor, directory, arguments.seconds, seed).play()
    else:
        report = await FailoverPlay(reactor, directory, seed).play()
    print(report.text())
    if report.violations:
        print(f"FAILED, again with: {again}")
        raise SystemExit(1)
    shutil.rmtree(directory)
    print("nothing that was acknowledged was lost or doubled")


if __name__ == "__main__":
    arguments = _arguments()
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, arguments)))
