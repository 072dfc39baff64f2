"""What the DHCP server does not do of what it is told: host maps it does not take, and ones it does not let go."""

from collections.abc import Iterable, Mapping

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.convergence.log import ConvergenceLog
from clusterd.convergence.plan import Key, Plan, Rejected, contains, network_of
from clusterd.dhcp.backend import Rejection
from clusterd.protocol.values import HostMap, Identifier


class RefusedHostMaps:
    """Kept between applies, since each apply tells only of what it was given. What is new is logged."""

    def __init__(self, log: ConvergenceLog) -> None:
        self._log = log
        self._rejected: Rejected = {}
        self._stuck: dict[HostMap, str] = {}  # removals that the server did not do

    @property
    def any_stuck(self) -> bool:
        """Whether the server has a host map that it was told to remove."""
        return bool(self._stuck)

    @property
    def count(self) -> int:
        """How many host maps the server does not take, or does not let go."""
        return len(self._stuck) + sum(map(len, self._rejected.values()))

    def after_changes(
        self,
        plan: Plan,
        rejections: Iterable[Rejection],
        touched: Iterable[Key],
        records: Mapping[str, SubnetRecord],
    ) -> None:
        """The server was told what changed: nothing is known anew of the rest."""
        before = {subnet: dict(rejected) for subnet, rejected in self._rejected.items()}
        for subnet, identifier in touched:
            self._rejected.get(subnet, {}).pop(identifier, None)
        for host_map in plan.removed | plan.added:
            self._stuck.pop(host_map, None)
        self._keep(plan, rejections, before, records)

    def after_comparison(
        self, plan: Plan, rejections: Iterable[Rejection], records: Mapping[str, SubnetRecord]
    ) -> None:
        """Everything was compared: what is not refused now is refused no more."""
        before, self._rejected, self._stuck = self._rejected, {}, {}
        self._keep(plan, rejections, before, records)

    def drop(self, subnet: str) -> None:
        """The subnet is not held any more."""
        self._rejected.pop(subnet, None)

    def why_held_back(self, cidr: str | None) -> str | None:
        """The server's words for a removal that it did not do in this network (in any, for an unknown one)."""
        for host_map, reason in self._stuck.items():
            if cidr is None or contains(network_of(cidr), host_map.address):
                return f"{host_map.identifier} still has {host_map.address}: {reason}"
        return None

    def of_subnet(self, record: SubnetRecord) -> dict[Identifier, tuple[HostMap, str]]:
        """What of a subnet is not as it was asked for, and why."""
        refused = dict(self._rejected.get(record.subnet, {}))
        for host_map, reason in self._stuck.items():
            if contains(network_of(record.cidr), host_map.address):
                refused[host_map.identifier] = (host_map, f"still has {host_map.address}: {reason}")
        return refused

    def _keep(
        self, plan: Plan, rejections: Iterable[Rejection], before: Rejected, records: Mapping[str, SubnetRecord]
    ) -> None:
        for subnet, rejected in plan.unservable.items():
            if subnet in records:
                self._rejected.setdefault(subnet, {}).update(rejected)
        for rejection in rejections:
            host_map = rejection.host_map
            if host_map in plan.removed:
                if self._stuck.get(host_map) != rejection.reason:
                    self._log.failed(host_map, "", f"not removed: {rejection.reason}")
                self._stuck[host_map] = rejection.reason
                continue
            for subnet in plan.holders.get(host_map) or _subnets_around(host_map, records):
                if subnet in records:
                    self._rejected.setdefault(subnet, {})[host_map.identifier] = (host_map, rejection.reason)
        self._log.rejected(before, self._rejected, records)


def _subnets_around(host_map: HostMap, records: Mapping[str, SubnetRecord]) -> list[str]:
    return [subnet for subnet, record in records.items() if contains(network_of(record.cidr), host_map.address)]
