"""Questions from one regiond to another: rows that live for seconds (see 0027_questions.sql)."""

from collections.abc import Mapping
from typing import Final

from regiond.domain.questions import Answer, Question, TakenQuestion
from regiond.storage.pool import Pool
from regiond.storage.reads import CONNECTED

_PUT: Final = f"""
INSERT INTO cluster_question (id, cluster, command, arguments, expires_at)
SELECT %s, c.id, %s, %s, now() + make_interval(secs => %s) FROM cluster c WHERE c.id = %s AND {CONNECTED}
ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING id
"""  # noqa: S608 (a constant only)

# Only over the cluster's latest connection: whoever has an older one may wait for a peer that is long gone.
_TAKE: Final = """
UPDATE cluster_question q SET taken = true
FROM unnest(%s::bigint[], %s::bigint[]) AS mine (id, epoch) JOIN cluster c USING (id, epoch)
WHERE q.cluster = c.id AND NOT q.taken AND q.expires_at > now()
RETURNING q.id, q.cluster, q.command, q.arguments, extract(epoch FROM q.expires_at - now())::float
"""


_LOOK_SECONDS: Final = 2.0  # somebody waits, and not for a database that hangs


class QuestionStore:
    """Raises DatabaseUnavailable and ConnectionLost."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(self, question: Question, seconds: float) -> bool:
        """Whether it is there, to be answered within so many seconds; False: no regiond has the cluster."""
        row = (question.id, question.command, question.arguments, seconds, question.cluster)
        return bool(await self._pool.query(_PUT, row, retry=True, deadline=seconds))

    async def take(self, epochs: Mapping[int, int]) -> list[TakenQuestion]:
        """Those to these clusters that nobody has taken: they are this regiond's. By cluster its connection's epoch."""
        rows = await self._pool.query(_TAKE, (list(epochs), list(epochs.values())))
        return [
            TakenQuestion(Question(number, cluster, command, bytes(arguments)), seconds)
            for number, cluster, command, arguments, seconds in rows
        ]

    async def answer(self, question: int, answer: Answer) -> None:
        """Nothing happens where nobody waits for it any more."""
        await self._pool.execute(
            """UPDATE cluster_question SET answered = true, answer = %s, error_code = %s, error_text = %s
               WHERE id = %s AND NOT answered""",
            (answer.box, answer.error_code, answer.error_text, question),
            retry=True,
        )

    async def withdraw(self, question: int) -> bool:
        """Take it back, if nobody has taken it; whether that was so."""
        sql = "DELETE FROM cluster_question WHERE id = %s AND NOT taken RETURNING id"
        return bool(await self._pool.query(sql, (question,), deadline=_LOOK_SECONDS))

    async def collect(self, question: int) -> Answer | None:
        """Its answer, once: the row goes with it. None while there is none."""
        rows = await self._pool.query(
            "DELETE FROM cluster_question WHERE id = %s AND answered RETURNING answer, error_code, error_text",
            (question,),
            deadline=_LOOK_SECONDS,
        )
        for box, code, text in rows:
            return Answer(None if box is None else bytes(box), code, text)
        return None

    async def prune(self) -> None:
        """Delete those that nobody waits for any more: of a regiond that was killed, or gave up."""
        await self._pool.execute("DELETE FROM cluster_question WHERE expires_at < now()", retry=True)
