"""The use cases of subnets, accounts and the audit on a real database, beside the writer that claims."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from regiond.catalogue import Catalogue
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import CheckReport
from regiond.storage.accounts import AccountStore
from regiond.storage.audit import AuditReads
from regiond.storage.check import SubnetChecks
from regiond.storage.ranges import RangeStore
from regiond.storage.subnets import SubnetStore
from regiond.use_cases.accounts import Accounts
from regiond.use_cases.audit_trail import AuditTrail
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.subnets import Subnets
from tests.regiond.storage.region import Region, new_id, region_on

NOBODY = Caller(1, "alice", is_admin=False, read_only=False)


@dataclass(slots=True)
class SubnetWorld:
    """One region's storage with the use cases above it; `admin` is an admin's request."""

    region: Region
    subnets: Subnets
    accounts: Accounts
    audit: AuditTrail
    inventory: Inventory

    @property
    def admin(self) -> RequestContext:
        return RequestContext(Caller(self.region.owner, "tester", is_admin=True, read_only=False), "test-request", "f")

    @property
    def user(self) -> RequestContext:
        return RequestContext(NOBODY, "test-request")

    def keyed(self, key: str, fingerprint: str = "f") -> RequestContext:
        return replace(self.admin, idempotency_key=key, fingerprint=fingerprint)

    async def subnet(self, cidr: str = "192.0.2.0/24") -> tuple[int, str]:
        """A subnet that a cluster serves, whose first address is the controller's: its number and its id."""
        _, (number,) = await self.region.cluster(f"rack-{new_id()}", cidr)
        return number, format_id(Prefix.SUBNET, number)

    async def add(self, subnet: str, low: str, high: str, kind: str = "dynamic", **more: Any) -> str:
        """A range's id."""
        values = {"comment": None, "force": False, **more}
        made = await self.subnets.add_range(self.admin, subnet, kind=kind, low=low, high=high, **values)
        return format_id(Prefix.ADDRESS_RANGE, made.id)

    async def check(self, subnet: str) -> CheckReport:
        return await self.subnets.check(self.admin, subnet)

    async def sound(self, subnet: str) -> bool:
        return not (await self.check(subnet)).findings

    async def actions(self, *prefixes: str) -> list[tuple[Any, ...]]:
        """What the audit has of these kinds of actions, the oldest first."""
        rows = await self.region.pool.query("SELECT action, before, after FROM audit ORDER BY id")
        return [row for row in rows if row[0].startswith(prefixes)]


@asynccontextmanager
async def subnet_world(dsn: str, reactor: Any) -> AsyncIterator[SubnetWorld]:
    async with region_on(dsn, reactor) as region:
        inventory = Inventory(region.reads, Catalogue(reactor, region.reads))
        pool = region.pool
        subnets = Subnets(inventory, RangeStore(pool, new_id), SubnetStore(pool), SubnetChecks(pool))
        yield SubnetWorld(
            region, subnets, Accounts(reactor, AccountStore(pool)), AuditTrail(AuditReads(pool)), inventory
        )
