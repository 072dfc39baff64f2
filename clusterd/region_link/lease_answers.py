"""What the region is answered when it asks for the DHCP server's leases: a few questions at a time, one page each."""

from collections.abc import Sequence

from twisted.internet.defer import DeferredSemaphore

from clusterd.dhcp.backend import Backend, BackendError, NoLeases
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol.errors import MalformedArgument, NotSupported, ServerRefused
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier

MAX_AT_ONCE = 2  # each may read a whole lease file; the others wait


class LeaseAnswers:
    """Asks the backend. Every method raises NotSupported and ServerRefused, with the words to be shown."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turns = DeferredSemaphore(MAX_AT_ONCE)

    async def page(
        self, cidr: str, after: str | None, limit: int, addresses: Sequence[str], clients: Sequence[Identifier]
    ) -> LeasePage:
        """Raises MalformedArgument, too, for a question that makes no sense."""
        try:
            question = LeaseQuestion(cidr, after, limit, frozenset(addresses), frozenset(clients))
        except ValueError as error:
            raise MalformedArgument(str(error)) from error
        await self._turns.acquire()
        try:
            return await self._backend.leases(question)
        except BackendError as error:
            raise _told(error) from error
        finally:
            self._turns.release()

    async def end(self, leases: Sequence[ServerLease]) -> None:
        """Take these leases from their clients, one by one, until one stays."""
        await self._turns.acquire()
        try:
            for lease in leases:
                await self._backend.end_lease(lease)
        except BackendError as error:
            raise _told(error) from error
        finally:
            self._turns.release()


def _told(error: BackendError) -> NotSupported | ServerRefused:
    return NotSupported(str(error)) if isinstance(error, NoLeases) else ServerRefused(str(error))
