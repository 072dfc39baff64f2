"""What can be wrong with the database itself, as opposed to with a request."""


class DatabaseUnavailable(Exception):
    """The database did not answer: no connection, a lost connection, or no answer within the deadline.

    `outcome_unknown` is true when the work may have been committed all the same: its answer was lost. False means
    that nothing was sent, so trying again is always safe.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class TransactionLeftOpen(RuntimeError):
    """A function that was lent a session returned in the middle of its transaction: a bug; it was rolled back."""


class SchemaError(Exception):
    """The database's tables are not what this regiond can work with."""
