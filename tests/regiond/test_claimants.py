"""Who may claim from a subnet: on a real database, by whatever way a claim comes."""

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.domain import errors
from regiond.domain.accounts import Role
from regiond.domain.mutations import Actor, Mutation, Outcome
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor


class Office:
    """A subnet and two users who want addresses of it."""

    def __init__(self, world: SubnetWorld, number: int, subnet: str) -> None:
        self._world = world
        self._number = number
        self.subnet = subnet

    async def hire(self, *names: str) -> list[Actor]:
        made = [await self._world.accounts.create_account(self._world.admin, name=n, role=Role.USER) for n in names]
        return [Actor(account.id, account.name, is_admin=False) for account in made]

    async def claim(self, actor: Actor, **more: Any) -> Outcome:
        assert actor.account is not None
        claim = replace(self._world.region.user(self._number, **more), owner=actor.account, owner_name=actor.name)
        return await self._world.region.writer.submit(Mutation(actor, (claim,), "test-request"))

    async def let(self, claimants: Any) -> Any:
        return (await self._world.subnets.change_subnet(self._world.admin, self.subnet, claimants=claimants)).claimants


async def office(world: SubnetWorld) -> Office:
    return Office(world, *await world.subnet())


@pytest_twisted.ensureDeferred
async def test_everyone_may_claim_until_an_admin_says_who_may(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        at = await office(world)
        alice, bob = await at.hire("alice", "bob")
        await at.claim(bob)
        assert await at.let(["alice"]) == ("alice",)
        await at.claim(alice)
        for wanted in ({}, {"address": "192.0.2.77"}, {"others": (7, 8), "group": 9}):
            with pytest.raises(errors.NotPermitted, match=r"bob is not among .* may claim from 192.0.2.0/24"):
                await at.claim(bob, **wanted)
        await at.claim(world.region.actor)
        assert await at.let("admins") == ()
        with pytest.raises(errors.NotPermitted):
            await at.claim(alice)
        await at.claim(world.region.actor)
        assert await at.let("everyone") is None
        await at.claim(bob)
        changes = [
            (before["claimants"], after["claimants"]) for _, before, after in await world.actions("subnet.change")
        ]
        assert changes == [(None, ["alice"]), (["alice"], []), ([], None)]


@pytest_twisted.ensureDeferred
async def test_other_settings_leave_the_claimants_alone(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        at = await office(world)
        await at.hire("alice", "bob")
        assert await at.let(["bob", "alice", "bob"]) == ("alice", "bob")
        _, subnet = await world.subnet("198.51.100.0/24")
        assert (await world.inventory.subnet(subnet)).claimants is None
        assert (await world.subnets.change_subnet(world.admin, at.subnet, probe=True)).claimants == ("alice", "bob")


@pytest_twisted.ensureDeferred
async def test_whom_nobody_knows_is_not_let_in(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        at = await office(world)
        await at.hire("alice")
        with pytest.raises(errors.NotFound, match="there is no account carol"):
            await at.let(["alice", "carol"])
        with pytest.raises(errors.NotPermitted):
            await world.subnets.change_subnet(world.user, at.subnet, claimants="everyone")
        assert (await world.inventory.subnet(at.subnet)).claimants is None
