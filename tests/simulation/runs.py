"""Runs of many stories: the same seed tells the same ones, and a failure is told as short as it gets."""

from dataclasses import dataclass

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.simulation.stories import Story, stories
from tests.simulation.teller import tell

STORIES_PER_SEED = 50


@dataclass(frozen=True)
class Failure:
    """The shortest story that was found to go wrong, and how to see it again."""

    seed: int
    story: Story
    error: BaseException

    def __str__(self) -> str:
        return (
            f"{type(self.error).__name__}: {self.error}\n\n"
            f"this story again:     python -m tests.simulation --story '{self.story}'\n"
            f"the search again:     python -m tests.simulation --seed {self.seed}"
        )


def run_seed(seed: int, how_many: int = STORIES_PER_SEED) -> Failure | None:
    """Tell so many stories; the shortest failing one, or None."""
    last: list[tuple[Story, BaseException]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=how_many,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(stories)
    def all_is_well(story: Story) -> None:
        try:
            tell(story)
        except BaseException as error:
            last[:] = [(story, error)]
            raise

    try:
        all_is_well()
    except Exception as error:
        if not last:
            raise
        return Failure(seed, last[0][0], last[0][1] if last[0][1] is not None else error)
    return None
