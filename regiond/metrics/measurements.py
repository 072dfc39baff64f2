"""Everything that is counted while this regiond runs. Who does the thing calls the method of its name."""

from clusterd.daemon.counting import STALL_SECONDS, Counts, Distribution
from regiond.domain import errors
from regiond.domain.mutations import Claim, Mutation, Outcome
from regiond.storage.errors import DatabaseUnavailable

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Measurements:
    """See the module. All of it is on the reactor's thread."""

    def __init__(self) -> None:
        self.requests = Counts()
        self.request_seconds = Distribution(SECONDS)
        self.claims = Counts()
        self.claim_seconds = Distribution(SECONDS)
        self.batch_seconds = Distribution(SECONDS)
        self.batch_mutations = Distribution(SIZES)
        self.reactor_stall_seconds = Distribution(STALL_SECONDS)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request was answered. `route` is the template of its path, never the path itself."""
        self.requests.add(method, route, str(status))
        self.request_seconds.observe(seconds)

    def decided(self, mutation: Mutation, outcome: Outcome | Exception, seconds: float) -> None:
        """A mutation has its answer, `seconds` after it was handed to the writer.

        One that its maker tries again in another way has none yet.
        """
        if isinstance(outcome, _NO_ANSWERS):
            return
        claims = [step for step in mutation.steps if type(step) is Claim]
        if claims:
            what = _word(outcome)
            for claim in claims:
                self.claims.add(claim.kind.value, what)
            self.claim_seconds.observe(seconds)

    def committed(self, mutations: int, seconds: float) -> None:
        """A batch of so many mutations was committed, `seconds` after it began."""
        self.batch_mutations.observe(mutations)
        self.batch_seconds.observe(seconds)


_NO_ANSWERS = (errors.Unvetted, errors.ChangedMeanwhile)


def _word(outcome: Outcome | Exception) -> str:
    """The outcome of a claim as a label: one of few words."""
    if isinstance(outcome, Outcome):
        return "repeated" if outcome.replayed else "created" if outcome.created else "existing"
    if isinstance(outcome, errors.DomainError):
        return outcome.slug
    return "database-unavailable" if isinstance(outcome, DatabaseUnavailable) else "internal-error"
