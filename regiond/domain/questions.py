"""Questions to clusters that travel from one regiond to another, and their answers, as the table has them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """`arguments` is a box of AMP with the arguments of `command`."""

    id: int
    cluster: int
    command: str
    arguments: bytes


@dataclass(frozen=True, slots=True)
class TakenQuestion:
    """One that is to be answered here, within so many seconds."""

    question: Question
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """`box` is a box of AMP with the response; without it an error's code, which both regionds know, and its words."""

    box: bytes | None
    error_code: str | None = None
    error_text: str = ""
