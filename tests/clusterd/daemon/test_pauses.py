"""What a daemon has made when it starts is no longer looked at by the garbage collector."""

import gc

from clusterd.daemon.pauses import avoid_long_collections


def test_objects_of_the_start_are_set_aside_and_later_ones_are_not() -> None:
    early: list[object] = [[]]
    thresholds = gc.get_threshold()
    try:
        avoid_long_collections()
        later: list[object] = [[]]
        looked_at = {id(found) for found in gc.get_objects()}
        assert id(early) not in looked_at
        assert id(later) in looked_at
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
