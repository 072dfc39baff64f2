"""The calls that bring a cluster's host maps of one subnet from one generation to another, and that end them."""

from typing import Any

from twisted.logger import Logger

from clusterd.protocol import commands
from regiond.cluster_rpc.connections import Connection
from regiond.domain.ids import Prefix, format_id
from regiond.storage.deliveries import Difference, Transfer

TRANSFER_DEADLINE_SECONDS = 60.0


class HostMapCalls:
    """Raises what the commands declare, and what `Link.call` does."""

    _log = Logger(namespace="region.dispatch")

    async def send_difference(self, connection: Connection, subnet: int, change: Difference) -> int:
        """The cluster's accepted generation after it. MalformedArgument: it does not fit in one call, but in pages."""
        answer = await connection.link.call(
            commands.ApplyHostMaps,
            history=connection.history,
            subnet=format_id(Prefix.SUBNET, subnet),
            cidr=change.cidr,
            from_generation=change.from_generation,
            to_generation=change.to_generation,
            digest=change.digest,
            upserts=change.upserts,
            removals=change.removals,
            request_ids=change.request_ids,
        )
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

    async def transfer(self, connection: Connection, subnet: int, transfer: Transfer) -> int:
        """The cluster's accepted generation after all pages."""
        link = connection.link
        named: dict[str, Any] = {"subnet": format_id(Prefix.SUBNET, subnet), "to_generation": transfer.to_generation}
        await link.call(
            commands.BeginTransfer,
            **named,
            history=connection.history,
            cidr=transfer.cidr,
            from_generation=transfer.from_generation,
            digest=transfer.digest,
            count=transfer.upserts + transfer.removals,
        )
        for upserts in transfer.upsert_pages:
            await link.call(commands.TransferPage, **named, upserts=upserts, removals=())
        for removals in transfer.removal_pages:
            await link.call(commands.TransferPage, **named, upserts=(), removals=removals)
        answer = await link.call(commands.CommitTransfer, deadline=TRANSFER_DEADLINE_SECONDS, **named)
        self._log.info(
            "cluster {cluster} accepted {upserts} host maps and {removals} removals of {cidr} in pages",
            event="delivery.transferred",
            cluster=connection.name,
            subnet=named["subnet"],
            cidr=transfer.cidr,
            generation=transfer.to_generation,
            upserts=transfer.upserts,
            removals=transfer.removals,
            snapshot=transfer.from_generation is None,
        )
        return int(answer["accepted_generation"])

    async def forget(self, connection: Connection, subnet: int, cidr: str | None) -> None:
        """Returns when neither the cluster's disk nor its DHCP server has a host map of the subnet."""
        name = format_id(Prefix.SUBNET, subnet)
        network: dict[str, Any] = {} if cidr is None else {"cidr": cidr}
        await connection.link.call(
            commands.ForgetSubnet,
            deadline=TRANSFER_DEADLINE_SECONDS,
            history=connection.history,
            subnet=name,
            **network,
        )
        self._log.info(
            "cluster {cluster} forgot {subnet}", event="delivery.forgotten", cluster=connection.name, subnet=name
        )
