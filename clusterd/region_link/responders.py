"""Answers the region's commands, by handing each one to who can do it.

# Note [Late senders]
Nothing that a regiond sends late brings freed host maps back. On one connection it cannot be late: what it sends of a
subnet is sent one after the other, the commands come in that order, and the store does them in that order, a
`ForgetSubnet` among them. On a former connection nobody is listened to, whatever its transport still delivers: after
`close` nothing reaches the store, so that nothing has to be remembered of a subnet that was forgotten.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols import amp

from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.protocol import commands
from clusterd.protocol.arguments import LEASES
from clusterd.protocol.connection import Responders
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import AddressInUse, HostMap, Identifier
from clusterd.region_link.lease_answers import LeaseAnswers

Probe = Callable[[str, str, Sequence[str], float], Awaitable[Sequence[AddressInUse]]]
"""From a NIC, its network, addresses and seconds to those that are in use. Raises MalformedArgument and NotProbed."""


class RegionResponders(Responders):
    """One connection's answers. What comes before the registration has been answered here waits for `open`."""

    def __init__(self, accepted: AcceptedHostMaps, leases: LeaseAnswers, probe: Probe) -> None:
        super().__init__()
        self._accepted = accepted
        self._leases = leases
        self._probe = probe
        self._waiting: list[Deferred[None]] | None = []
        self._over = False

    def open(self) -> None:
        """The registration is through: answer what has come, and what comes from now on."""
        waiting, self._waiting = self._waiting or [], None
        for one in waiting:
            one.callback(None)

    def close(self) -> None:
        """The connection is over: what still waits, and what still comes, is refused. See Note [Late senders]."""
        self._over = True
        self.open()

    async def _opened(self) -> None:
        if self._waiting is not None:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
        if self._over:
            raise amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, "this connection is over", fatal=False)

    @commands.ApplyHostMaps.responder
    async def apply_host_maps(
        self,
        history: str,
        subnet: str,
        cidr: str,
        from_generation: int,
        to_generation: int,
        digest: int,
        upserts: Sequence[HostMap],
        removals: Sequence[Identifier],
        request_ids: Sequence[str],
    ) -> dict[str, Any]:
        await self._opened()
        generation = await self._accepted.apply_host_maps(
            history, subnet, cidr, from_generation, to_generation, digest, upserts, removals, request_ids
        )
        return {"accepted_generation": generation}

    @commands.BeginTransfer.responder
    async def begin_transfer(
        self,
        history: str,
        subnet: str,
        cidr: str,
        to_generation: int,
        digest: int,
        count: int,
        from_generation: int | None = None,
    ) -> dict[str, Any]:
        await self._opened()
        await self._accepted.begin_transfer(history, subnet, cidr, from_generation, to_generation, digest, count)
        return {}

    @commands.TransferPage.responder
    async def transfer_page(
        self, subnet: str, to_generation: int, upserts: Sequence[HostMap], removals: Sequence[Identifier]
    ) -> dict[str, Any]:
        await self._opened()
        await self._accepted.transfer_page(subnet, to_generation, upserts, removals)
        return {}

    @commands.CommitTransfer.responder
    async def commit_transfer(self, subnet: str, to_generation: int) -> dict[str, Any]:
        await self._opened()
        return {"accepted_generation": await self._accepted.commit_transfer(subnet, to_generation)}

    @commands.ForgetSubnet.responder
    async def forget_subnet(self, history: str, subnet: str, cidr: str | None = None) -> dict[str, Any]:
        await self._opened()
        await self._accepted.forget_subnet(history, subnet, cidr)
        return {}

    @commands.UploadHostMaps.responder
    async def upload_host_maps(self, subnet: str, after: Sequence[Identifier]) -> dict[str, Any]:
        await self._opened()
        record, page, more = await self._accepted.upload(subnet, after[0] if after else None)
        return {
            "cidr": record.cidr,
            "history": record.origin.history,
            "accepted_generation": record.accepted_generation,
            "applied_generation": record.applied_generation,
            "host_maps": page,
            "more": int(more),
        }

    @commands.UploadFormerHostMaps.responder
    async def upload_former_host_maps(self, cidr: str, after: Sequence[HostMap]) -> dict[str, Any]:
        await self._opened()
        page, more = await self._accepted.upload_former(cidr, after[0] if after else None)
        return {"host_maps": page, "more": int(more)}

    @commands.ListLeases.responder
    async def list_leases(
        self,
        cidr: str,
        limit: int,
        addresses: Sequence[str],
        clients: Sequence[Identifier],
        after: str | None = None,
    ) -> dict[str, Any]:
        await self._opened()
        page = await self._leases.page(cidr, after, limit, addresses, clients)
        fitting = next(LEASES.pages_of(page.leases))  # all, unless the clients' identifiers are very long
        return {"leases": fitting, "more": int(page.more or len(fitting) < len(page.leases))}

    @commands.EndLease.responder
    async def end_lease(self, leases: Sequence[ServerLease]) -> dict[str, Any]:
        await self._opened()
        await self._leases.end(leases)
        return {}

    @commands.ProbeAddresses.responder
    async def probe_addresses(self, nic: str, cidr: str, addresses: Sequence[str], milliseconds: int) -> dict[str, Any]:
        await self._opened()
        return {"in_use": await self._probe(nic, cidr, addresses, milliseconds / 1000)}
