"""Keeps the garbage collector from stalling the reactor.

Importing Twisted, pydantic and the rest leaves some 60,000 objects behind that live as long as the process. A full
collection looks at each of them: 40 ms on an ordinary machine, at a moment of its own choosing. Set aside, they
cost nothing, and a full collection looks only at what was made since.

100,000 host maps are half a million objects without a cycle among them; looking for one holds up every thread for
0.3 s. Full collections are therefore rare; the young generations are collected as ever.
"""

import gc

FULL_COLLECTION_THRESHOLD = 1_000  # collections of the middle generation between two of all


def avoid_long_collections() -> None:
    """Call once, when the daemon is put together and before it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION_THRESHOLD)
