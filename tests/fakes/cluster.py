"""A cluster that does what a test says: the AMP side that the region talks to, keeping the guards of clusterd."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred

from clusterd.protocol import commands, errors
from clusterd.protocol.arguments import MAX_PAGE_ROWS
from clusterd.protocol.connection import Link, Responders
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HeldSubnet, HostMap, Identifier


@dataclass(slots=True)
class Stored:
    """What the cluster has of one subnet."""

    generation: int = 0
    host_maps: dict[Identifier, HostMap] = field(default_factory=dict)
    cidr: str = "10.0.0.0/16"

    @property
    def digest(self) -> int:
        return digest_of(self.host_maps.values())


@dataclass(slots=True)
class Call:
    """A command as it came, with its arguments."""

    name: str
    subnet: str
    arguments: dict[str, Any]


class FakeCluster(Responders):
    """`calls` are the commands so far; `refusals` are raised, one for each next command."""

    def __init__(self, name: str, history: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.history = history
        self.stamp = history  # whose history the subnets are of; the region says another one with its answer
        self.region: str | None = None
        self.subnets: dict[str, Stored] = {}
        self.calls: list[Call] = []
        self.refusals: list[Exception] = []
        self.most_at_once = 0
        self.link: Link | None = None
        self._at_once: dict[str, int] = {}
        self._held: list[Deferred[None]] | None = None
        self._transfers: dict[str, tuple[int | None, int, int, list[HostMap], list[Identifier]]] = {}

    # ---- a test's handle ----

    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def hold(self) -> None:
        """Leave commands unanswered until `let_go`."""
        self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for one in held:
            one.callback(None)

    async def register(self) -> dict[str, Any]:
        assert self.link is not None
        history: dict[str, Any] = {} if self.history is None else {"history": self.history}
        if self.region is not None:
            history["region"] = self.region
        self.stamp = self.history
        answer = await self.link.call(
            commands.Register,
            protocol_version=commands.PROTOCOL_VERSION,
            software_version="1",
            hostname=self.name,
            cluster=self.name,
            backend="fake",
            held=[HeldSubnet(s, one.generation, one.generation, one.digest) for s, one in self.subnets.items()],
            **history,
        )
        self.history = answer["history"]
        return answer

    async def report(self, subnet: str, applied: int, history: str, error: str | None = None, **more: int) -> None:
        assert self.link is not None
        words: dict[str, Any] = dict(more) if error is None else {"error": error, **more}
        await self.link.call(
            commands.ReportHostMapState,
            history=history,
            subnet=subnet,
            applied_generation=applied,
            rejected=(),
            **words,
        )

    # ---- what the region calls ----

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
        seen = {"from": from_generation, "to": to_generation, "upserts": upserts, "removals": removals, "cidr": cidr}
        await self._seen("ApplyHostMaps", subnet, seen)
        return {"accepted_generation": self._accept(subnet, from_generation, to_generation, digest, upserts, removals)}

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
        await self._seen("BeginTransfer", subnet, {"from": from_generation, "to": to_generation, "count": count})
        self._transfers[subnet] = (from_generation, to_generation, digest, [], [])
        return {}

    @commands.TransferPage.responder
    async def transfer_page(
        self, subnet: str, to_generation: int, upserts: Sequence[HostMap], removals: Sequence[Identifier]
    ) -> dict[str, Any]:
        await self._seen("TransferPage", subnet, {"upserts": len(upserts), "removals": len(removals)})
        self._transfers[subnet][3].extend(upserts)
        self._transfers[subnet][4].extend(removals)
        return {}

    @commands.CommitTransfer.responder
    async def commit_transfer(self, subnet: str, to_generation: int) -> dict[str, Any]:
        await self._seen("CommitTransfer", subnet, {"to": to_generation})
        from_generation, to, digest, upserts, removals = self._transfers.pop(subnet)
        return {"accepted_generation": self._accept(subnet, from_generation, to, digest, upserts, removals)}

    @commands.UploadHostMaps.responder
    async def upload_host_maps(self, subnet: str, after: Sequence[Identifier]) -> dict[str, Any]:
        await self._seen("UploadHostMaps", subnet, {"after": after})
        stored = self.subnets.get(subnet)
        if stored is None:
            raise errors.UnknownSubnet(f"nothing of {subnet} is held here")
        rest = [stored.host_maps[i] for i in sorted(stored.host_maps) if not after or i > after[0]]
        return {
            "cidr": stored.cidr,
            "history": self.stamp,
            "accepted_generation": stored.generation,
            "applied_generation": stored.generation,
            "host_maps": rest[:MAX_PAGE_ROWS],
            "more": int(len(rest) > MAX_PAGE_ROWS),
        }

    @commands.UploadFormerHostMaps.responder
    async def upload_former_host_maps(self, cidr: str, after: Sequence[HostMap]) -> dict[str, Any]:
        await self._seen("UploadFormerHostMaps", cidr, {"after": after})
        return {"host_maps": [], "more": 0}

    @commands.ForgetSubnet.responder
    async def forget_subnet(self, history: str, subnet: str, cidr: str | None = None) -> dict[str, Any]:
        await self._seen("ForgetSubnet", subnet, {"cidr": cidr})
        self.subnets.pop(subnet, None)
        return {}

    async def _seen(self, name: str, subnet: str, arguments: dict[str, Any]) -> None:
        self.calls.append(Call(name, subnet, arguments))
        self._at_once[subnet] = self._at_once.get(subnet, 0) + 1
        self.most_at_once = max(self.most_at_once, *self._at_once.values())
        try:
            if self._held is not None:
                turn: Deferred[None] = Deferred()
                self._held.append(turn)
                await turn
            if self.refusals:
                raise self.refusals.pop(0)
        finally:
            self._at_once[subnet] -= 1

    def _accept(
        self,
        subnet: str,
        from_generation: int | None,
        to_generation: int,
        digest: int,
        upserts: Iterable[HostMap],
        removals: Iterable[Identifier],
    ) -> int:
        stored = self.subnets.get(subnet, Stored())
        after: dict[Identifier, HostMap] = {}
        if from_generation is None:
            if to_generation < stored.generation:
                raise errors.SnapshotOlder(f"generation {stored.generation} is accepted")
        elif from_generation != stored.generation:
            raise errors.GenerationMismatch(stored.generation)
        else:
            after = dict(stored.host_maps)
        for identifier in removals:
            after.pop(identifier, None)
        after.update((host_map.identifier, host_map) for host_map in upserts)
        if digest_of(after.values()) != digest:
            raise errors.DigestMismatch("the set would have another digest")
        self.subnets[subnet] = Stored(to_generation, after)
        return to_generation
