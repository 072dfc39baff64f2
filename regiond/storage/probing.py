"""From where a subnet's addresses can be probed."""

from dataclasses import dataclass

from regiond.storage.pool import Pool


@dataclass(frozen=True, slots=True)
class ProbedFrom:
    """A NIC of a cluster that serves the subnet, and the network that it is on there."""

    cluster: int
    name: str
    nic: str
    cidr: str


class ProbingReads:
    """A read-only question."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def places(self, subnet: int) -> list[ProbedFrom]:
        """One NIC of each cluster that serves the subnet and is on it itself, now."""
        rows = await self._pool.query(
            """SELECT DISTINCT ON (c.name) c.id, c.name, i.nic, i.cidr::text
               FROM delivery d JOIN cluster c ON c.id = d.cluster
               JOIN cluster_interface i ON i.cluster = c.id AND i.subnet = d.subnet
               WHERE d.subnet = %s AND d.role = 'serving' AND i.present AND i.up AND NOT i.relayed
               ORDER BY c.name, i.nic""",
            (subnet,),
            retry=True,
        )
        return [ProbedFrom(*row) for row in rows]
