"""The table of questions and the doorbell in memory, for several regionds of one test."""

from collections.abc import Iterable, Mapping

from twisted.internet.interfaces import IReactorTime

from regiond.cluster_rpc.siblings import Siblings
from regiond.domain.questions import Answer, Question, TakenQuestion


class FakeQuestions:
    """`storage.questions.QuestionStore`. `connected` are the clusters' latest epochs; `trouble` is raised by all."""

    def __init__(self, clock: IReactorTime) -> None:
        self.connected: dict[int, int] = {}
        self.trouble: Exception | None = None
        self.open: dict[int, tuple[Question, float]] = {}
        self.taken: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self._clock = clock

    async def put(self, question: Question, seconds: float) -> bool:
        self._try()
        if question.cluster in self.connected:
            self.open[question.id] = (question, self._clock.seconds() + seconds)
        return question.id in self.open

    async def take(self, epochs: Mapping[int, int]) -> list[TakenQuestion]:
        self._try()
        now, found = self._clock.seconds(), []
        for number, (question, until) in self.open.items():
            cluster = question.cluster
            is_latest = cluster in epochs and self.connected.get(cluster) == epochs[cluster]
            if number not in self.taken and is_latest and until > now:
                self.taken.add(number)
                found.append(TakenQuestion(question, until - now))
        return found

    async def answer(self, question: int, answer: Answer) -> None:
        self._try()
        if question in self.open:
            self.answers.setdefault(question, answer)

    async def withdraw(self, question: int) -> bool:
        self._try()
        return question not in self.taken and self.open.pop(question, None) is not None

    async def collect(self, question: int) -> Answer | None:
        self._try()
        if question in self.answers:
            del self.open[question]
        return self.answers.pop(question, None)

    async def prune(self) -> None:
        self._try()
        now = self._clock.seconds()
        for number in [number for number, (_, until) in self.open.items() if until < now]:
            del self.open[number]
            self.answers.pop(number, None)

    def _try(self) -> None:
        if self.trouble is not None:
            raise self.trouble


class FakeBell:
    """`storage.doorbell.Doorbell`, heard at once by the others; `is_broken`: by nobody."""

    def __init__(self) -> None:
        self.others: list[Siblings] = []
        self.is_broken = False

    def asked(self, clusters: Iterable[int]) -> None:
        for other in [] if self.is_broken else self.others:
            other.heard_of_questions(clusters)

    def answered(self, questions: Iterable[int]) -> None:
        for other in [] if self.is_broken else self.others:
            other.heard_of_answers(questions)
