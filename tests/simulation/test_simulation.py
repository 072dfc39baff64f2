"""A slice of the simulation: the stories of some seeds, and those that once went wrong."""

import gc
from collections.abc import Iterator

import pytest

from tests.requirements import any_seed
from tests.simulation.mutants import MUTANTS, ROOT, Mutant
from tests.simulation.runs import run_seed
from tests.simulation.stories import EVENTS, Story
from tests.simulation.teller import tell
from tests.simulation.told_first import TOLD_FIRST


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What is left of the stories' worlds makes no noise in other tests; see Note [Former lives]."""
    yield
    gc.collect()


@pytest.mark.parametrize("words", TOLD_FIRST)
def test_what_is_told_first_ends_well(words: str) -> None:
    tell(Story.read(TOLD_FIRST[words]))


@pytest.mark.parametrize("seed", [1, 2, any_seed()], ids=["one", "another", "any"])
def test_stories_end_well(seed: int) -> None:
    failure = run_seed(seed, how_many=40)
    assert failure is None, str(failure)


def test_every_event_can_be_told_and_written_down() -> None:
    story = Story(5, True, tuple((name, (0,) * len(numbers)) for name, numbers in EVENTS.items()))
    assert Story.read(str(story)) == story
    tell(story)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_every_mutant_finds_what_it_breaks(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.parametrize("text", ["", "hold 5", "hold 5; pair 0; invent 1", "hold 5; pair 0; claim 1"])
def test_what_is_no_story_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Story.read(text)
