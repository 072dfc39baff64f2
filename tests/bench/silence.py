"""How long a client at a time is without an answer: `python -m tests.bench.silence NAMESPACE MAC`.

One machine asks again and again, from when the process starts until its standard input ends; then one JSON object is
printed. A process of its own, so that no other work in Python makes a server look silent.
"""

import json
import os
import select
import sys
import time

from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4

TIMEOUT_SECONDS = 0.02
PAUSE_SECONDS = 0.002


def main() -> None:
    namespace, mac = sys.argv[1:]
    longest, answers = 0.0, 0
    with RawClient4(Network("", namespace, ())) as client:
        while client.discover(mac, timeout=1.0) is None:
            pass
        print("asking", flush=True)
        last = time.monotonic()
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0] or os.read(0, 1):
            if client.discover(mac, timeout=TIMEOUT_SECONDS) is not None:
                now = time.monotonic()
                longest, last, answers = max(longest, now - last), now, answers + 1
    print(json.dumps({"longest_ms": round(longest * 1000, 1), "answers": answers}))


if __name__ == "__main__":
    main()
