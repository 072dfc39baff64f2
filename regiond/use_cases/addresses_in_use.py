"""The use cases of addresses that somebody uses without a reservation: who, since when, and that it is over."""

from collections.abc import Sequence

from twisted.logger import Logger

from regiond.domain.addresses_in_use import MarkedAddress
from regiond.domain.ids import Prefix, format_id
from regiond.storage.addresses_in_use import InUseStore
from regiond.use_cases import inputs
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import RequestContext


class AddressesInUse:
    """A subnet is named by its id or by a selector, a mark by its id. Raises NotFound."""

    _log = Logger(namespace="region.probing")

    def __init__(self, inventory: Inventory, marks: InUseStore) -> None:
        self._inventory = inventory
        self._marks = marks

    async def marks(self, subnet: str) -> Sequence[MarkedAddress]:
        return await self._marks.marks((await self._inventory.subnet(subnet)).id)

    async def clear(self, context: RequestContext, subnet: str, mark: str) -> None:
        """The address may be handed out again."""
        require_admin(context)
        number = await self._inventory.subnet_id(subnet)
        await self._marks.clear(context.change, number, inputs.known_id(Prefix.ADDRESS_IN_USE, mark))
        self._log.info(
            "the mark {mark} is cleared by {actor}",
            event="address.in-use-cleared",
            mark=mark,
            subnet=format_id(Prefix.SUBNET, number),
            actor=context.caller.name,
            request_id=context.request_id,
        )
