"""The use cases of one subnet: its ranges, how full it is, its release hold, and whether what is stored of it is sound.

A subnet is named by its id or by a selector; a range by its id. Whoever may not change anything may still look: the
region's networks are no secret among its accounts, only who has which address is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.logger import Logger

from clusterd.protocol.addresses import canonical_address
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.ranges import AddressRange, RangeKind, RangeValues
from regiond.domain.views import CheckReport, SubnetView, Utilisation
from regiond.storage.check import SubnetChecks
from regiond.storage.ranges import RangeStore
from regiond.storage.subnets import SubnetStore
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import RequestContext

MAX_RELEASE_HOLD_SECONDS: Final = 30 * 86400
MAX_AVAILABLE: Final = 1000
_CLAIMANTS: Final[Mapping[str, Sequence[str] | None]] = {"everyone": None, "admins": []}


class Subnets:
    """See the module. Raises NotFound, and what a selector's resolution raises."""

    _log = Logger(namespace="region.subnets")

    def __init__(self, inventory: Inventory, ranges: RangeStore, subnets: SubnetStore, checks: SubnetChecks) -> None:
        self._inventory = inventory
        self._ranges = ranges
        self._subnets = subnets
        self._checks = checks

    # ---- the subnet itself ----

    async def utilisation(self, subnet: str) -> Utilisation:
        return await self._subnets.utilisation(await self._inventory.subnet_id(subnet))

    async def available(self, subnet: str, limit: int) -> Sequence[str]:
        """The lowest addresses that are free now. Nothing is kept for the asker: a claim without an address is."""
        return await self._subnets.available(await self._inventory.subnet_id(subnet), min(limit, MAX_AVAILABLE))

    async def change_subnet(
        self,
        context: RequestContext,
        subnet: str,
        *,
        release_hold_seconds: int | None = None,
        claimable_anyway: bool | None = None,
        probe: bool | None = None,
        claimants: str | Sequence[str] | None = None,
    ) -> SubnetView:
        """What is None stays. `claimable_anyway`: do not wait for what the clusters report of their DHCP servers.
        `probe`: claims are probed unless they say otherwise. `claimants`: `everyone`, `admins`, or the accounts that
        may claim beside admins.
        """
        require_admin(context)
        if release_hold_seconds is not None and not 0 <= release_hold_seconds <= MAX_RELEASE_HOLD_SECONDS:
            raise errors.InvalidRequest("/release_hold_seconds", f"0 to {MAX_RELEASE_HOLD_SECONDS}")
        number = await self._inventory.subnet_id(subnet)
        wanted = {
            "release_hold_seconds": release_hold_seconds,
            "claimable_anyway": claimable_anyway,
            "probe": probe,
        }
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if claimants is not None:
            given["claimants"] = _CLAIMANTS[claimants] if isinstance(claimants, str) else sorted(set(claimants))
        await self._subnets.change(context.change, number, given)
        return await self._inventory.subnet(format_id(Prefix.SUBNET, number))

    # ---- ranges ----

    async def list_ranges(self, subnet: str) -> Sequence[AddressRange]:
        return await self._ranges.ranges(await self._inventory.subnet_id(subnet))

    async def range(self, subnet: str, range_id: str) -> AddressRange:
        return await self._ranges.range(await self._inventory.subnet_id(subnet), _range_id(range_id))

    async def add_range(
        self, context: RequestContext, subnet: str, *, kind: str, low: str, high: str, comment: str | None, force: bool
    ) -> AddressRange:
        """A dynamic range over reservations is refused, unless forced; a reserved one takes nobody's address away.

        Raises RangeOverlap, RangeOverReservations, AddressOutsideSubnet and InvalidRequest.
        """
        require_admin(context)
        values = RangeValues(_kind(kind), _address("/low", low), _address("/high", high), comment or None)
        number = await self._inventory.subnet_id(subnet)
        made = await self._ranges.add(context.change, number, values, force=force)
        self._tell(context, "added", made)
        return made

    async def change_range(
        self, context: RequestContext, subnet: str, range_id: str, *, changes: Mapping[str, Any], force: bool
    ) -> AddressRange:
        """`changes` may have kind, low, high and comment; what is not there stays. Raises as `add_range`."""
        require_admin(context)
        number, range_number = await self._inventory.subnet_id(subnet), _range_id(range_id)
        edit = _editor(changes)
        changed = await self._ranges.change(context.change, number, range_number, edit, force=force)
        self._tell(context, "changed", changed)
        return changed

    async def remove_range(self, context: RequestContext, subnet: str, range_id: str) -> None:
        require_admin(context)
        number, range_number = await self._inventory.subnet_id(subnet), _range_id(range_id)
        await self._ranges.remove(context.change, number, range_number)
        self._log.info(
            "range {range} removed by {actor}",
            event="range.removed",
            range=format_id(Prefix.ADDRESS_RANGE, range_number),
            subnet=format_id(Prefix.SUBNET, number),
            actor=context.caller.name,
            request_id=context.request_id,
        )

    def _tell(self, context: RequestContext, change: str, made: AddressRange) -> None:
        self._log.info(
            "{kind} range {low} to {high} {change} by {actor}",
            event="range.written",
            change=change,
            range=format_id(Prefix.ADDRESS_RANGE, made.id),
            subnet=format_id(Prefix.SUBNET, made.subnet),
            kind=made.values.kind.value,
            low=made.values.low,
            high=made.values.high,
            actor=context.caller.name,
            request_id=context.request_id,
        )

    # ---- whether it is sound ----

    async def check(self, context: RequestContext, subnet: str) -> CheckReport:
        """Looks at everything that is stored of the subnet, online. Its findings name who has what: for admins."""
        require_admin(context)
        report = await self._checks.check(await self._inventory.subnet_id(subnet))
        if report.findings:
            self._log.warn(
                "{count} findings in the check of {cidr}",
                event="subnet.check-failed",
                count=len(report.findings),
                cidr=report.cidr,
                subnet=format_id(Prefix.SUBNET, report.subnet),
                request_id=context.request_id,
            )
        return report

    async def repair(self, context: RequestContext, subnet: str) -> CheckReport:
        """Rebuild what can be computed from the rest, under the subnet's lock; how it is afterwards."""
        require_admin(context)
        number = await self._inventory.subnet_id(subnet)
        await self._checks.repair(context.change, number)
        self._log.warn(
            "free ranges of {subnet} rebuilt by {actor}",
            event="subnet.repaired",
            subnet=format_id(Prefix.SUBNET, number),
            actor=context.caller.name,
            request_id=context.request_id,
        )
        return await self._checks.check(number)


def _editor(changes: Mapping[str, Any]) -> Callable[[RangeValues], RangeValues]:
    readers: dict[str, Callable[[Any], Any]] = {
        "kind": _kind,
        "low": lambda text: _address("/low", text),
        "high": lambda text: _address("/high", text),
        "comment": lambda text: text or None,
    }
    new = {name: readers[name](value) for name, value in changes.items()}
    return lambda before: replace(before, **new)


def _kind(text: str) -> RangeKind:
    try:
        return RangeKind(text)
    except ValueError as error:
        raise errors.InvalidRequest("/kind", "dynamic or reserved") from error


def _address(pointer: str, text: str) -> str:
    try:
        return canonical_address(text)
    except ValueError as error:
        raise errors.InvalidRequest(pointer, str(error)) from error


def _range_id(text: str) -> int:
    number = parse_id(Prefix.ADDRESS_RANGE, text)
    if number is None:
        raise errors.NotFound(f"nothing has the id {text[:64]}")
    return number
