"""The calls that bring a cluster's host maps of one subnet from one generation to another, and that end them."""

from typing import Any

from twisted.logger import Logger

from clusterd.protocol import commands, errors
from clusterd.protocol.arguments import HOST_MAPS, IDENTIFIERS, MAX_PAGE_ROWS
from regiond.cluster_rpc import Connection
from regiond.domain.ids import Prefix, format_id
from regiond.storage.deliveries import Difference

TRANSFER_DEADLINE_SECONDS = 60.0


class HostMapCalls:
    """Raises what the commands declare, and what `Link.call` does."""

    _log = Logger(namespace="region.dispatch")

    def __init__(self, history: str) -> None:
        self._history = history

    async def send_difference(self, connection: Connection, subnet: int, change: Difference) -> int:
        """The cluster's accepted generation after it: in one call, or in pages where that does not hold it."""
        if len(change.upserts) > MAX_PAGE_ROWS or len(change.removals) > MAX_PAGE_ROWS:
            return await self._transfer(connection, subnet, change, change.from_generation)
        try:
            answer = await connection.link.call(
                commands.ApplyHostMaps,
                history=self._history,
                subnet=format_id(Prefix.SUBNET, subnet),
                cidr=change.cidr,
                from_generation=change.from_generation,
                to_generation=change.to_generation,
                digest=change.digest,
                upserts=change.upserts,
                removals=change.removals,
                request_ids=change.request_ids,
            )
        except errors.MalformedArgument:
            # 500 maps with long identifiers can be more than one value holds.
            return await self._transfer(connection, subnet, change, change.from_generation)
        self._log.info(
            "cluster {cluster} accepted {upserts} host maps and {removals} removals of {cidr}",
            event="delivery.accepted",
            cluster=connection.name,
            subnet=format_id(Prefix.SUBNET, subnet),
            cidr=change.cidr,
            generation=change.to_generation,
            upserts=len(change.upserts),
            removals=len(change.removals),
            request_ids=sorted(set(change.request_ids)),
        )
        return int(answer["accepted_generation"])

    async def send_snapshot(self, connection: Connection, subnet: int, snapshot: Difference) -> int:
        """The cluster's accepted generation after its set was replaced by this one."""
        return await self._transfer(connection, subnet, snapshot, None)

    async def _transfer(
        self, connection: Connection, subnet: int, change: Difference, from_generation: int | None
    ) -> int:
        link = connection.link
        named: dict[str, Any] = {"subnet": format_id(Prefix.SUBNET, subnet), "to_generation": change.to_generation}
        await link.call(
            commands.BeginTransfer,
            **named,
            history=self._history,
            cidr=change.cidr,
            from_generation=from_generation,
            digest=change.digest,
            count=len(change.upserts) + len(change.removals),
        )
        for upserts in HOST_MAPS.pages_of(change.upserts):
            await link.call(commands.TransferPage, **named, upserts=upserts, removals=())
        for removals in IDENTIFIERS.pages_of(change.removals):
            if removals:
                await link.call(commands.TransferPage, **named, upserts=(), removals=removals)
        answer = await link.call(commands.CommitTransfer, deadline=TRANSFER_DEADLINE_SECONDS, **named)
        self._log.info(
            "cluster {cluster} accepted {upserts} host maps and {removals} removals of {cidr} in pages",
            event="delivery.transferred",
            cluster=connection.name,
            subnet=named["subnet"],
            cidr=change.cidr,
            generation=change.to_generation,
            upserts=len(change.upserts),
            removals=len(change.removals),
            snapshot=from_generation is None,
        )
        return int(answer["accepted_generation"])

    async def forget(self, connection: Connection, subnet: int, cidr: str | None) -> None:
        """Returns when neither the cluster's disk nor its DHCP server has a host map of the subnet."""
        name = format_id(Prefix.SUBNET, subnet)
        network: dict[str, Any] = {} if cidr is None else {"cidr": cidr}
        await connection.link.call(
            commands.ForgetSubnet, deadline=TRANSFER_DEADLINE_SECONDS, history=self._history, subnet=name, **network
        )
        self._log.info(
            "cluster {cluster} forgot {subnet}", event="delivery.forgotten", cluster=connection.name, subnet=name
        )
