"""What becomes of deliveries, written down and told."""

from collections.abc import Iterable
from typing import Protocol

from regiond.domain.mutations import Acknowledge, Actor, Forgotten, Mutation, Outcome, Step

REGION = Actor(None, "region", is_admin=True)


class Mutations(Protocol):
    """`storage.writer.Writer`."""

    async def submit(self, mutation: Mutation) -> Outcome: ...


class Announce(Protocol):
    """Tells the other regionds, and whoever waits here, that something was committed."""

    def acknowledged(self, subnets: Iterable[int]) -> None: ...

    def topology_changed(self) -> None: ...


class Record:
    """Writes what clusters have, and tells whoever waits for it: nobody waits for a cluster to accept something."""

    def __init__(self, writer: Mutations, announce: Announce) -> None:
        self._writer = writer
        self._announce = announce

    async def __call__(self, *steps: Step) -> None:
        await self._writer.submit(Mutation(REGION, steps, request_id="dispatch"))
        told = {
            step.subnet
            for step in steps
            if isinstance(step, Forgotten) or (isinstance(step, Acknowledge) and step.is_of_server)
        }
        if told:
            self._announce.acknowledged(told)
