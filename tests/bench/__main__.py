"""`python -m tests.bench NAME [--quick]`."""

import argparse
import json
from importlib import import_module

NAMES = ("api", "claims", "delivery", "dhcp", "fleet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="a shorter run, under 50 s")
    arguments = parser.parse_args()
    figures = import_module(f"tests.bench.{arguments.name}").run(quick=arguments.quick)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
