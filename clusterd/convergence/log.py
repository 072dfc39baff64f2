"""The log lines of host map changes: one line per host map, which an operator can grep by address or identifier."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from twisted.logger import Logger

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.convergence.plan import Key, Plan, Rejected, Transition, contains, network_of
from clusterd.protocol.values import HostMap

MAX_LINES = 1_000


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """One host map that the server was told to have, or not to have any more."""

    kind: str  # applied, removed, drift-repaired
    host_map: HostMap
    subnet: str
    cidr: str
    generation: int
    request_ids: tuple[str, ...] = ()


def lines_of_changes(
    transitions: Mapping[Key, Transition], records: Mapping[str, SubnetRecord]
) -> Iterator[ChangeLine]:
    """What was asked for, change by change."""
    for (subnet, _), change in transitions.items():
        record = records.get(subnet)
        host_map = change.after if change.after is not None else change.before
        if record is not None and host_map is not None and change.before != change.after:
            kind = "removed" if change.after is None else "applied"
            yield ChangeLine(kind, host_map, subnet, record.cidr, change.generation, change.request_ids)


def lines_of_comparison(
    plan: Plan, transitions: Mapping[Key, Transition], records: Mapping[str, SubnetRecord]
) -> Iterator[ChangeLine]:
    """What a comparison found: asked for and not done yet, or, where all had been done, somebody else's doing."""
    for host_map in plan.added:
        for subnet in plan.holders.get(host_map, ()):
            yield from _line_of_difference("applied", host_map, subnet, transitions, records)
    networks = {subnet: network_of(record.cidr) for subnet, record in records.items()} if plan.removed else {}
    for host_map in plan.removed:
        subnets = [subnet for subnet, network in networks.items() if contains(network, host_map.address)]
        for subnet in subnets:
            yield from _line_of_difference("removed", host_map, subnet, transitions, records)
        if not subnets:
            yield ChangeLine("removed", host_map, "", "", 0)


def _line_of_difference(
    kind: str,
    host_map: HostMap,
    subnet: str,
    transitions: Mapping[Key, Transition],
    records: Mapping[str, SubnetRecord],
) -> Iterator[ChangeLine]:
    record = records.get(subnet)
    if record is None:  # accepted after the comparison began: told again with its own change
        return
    asked = transitions.get((subnet, host_map.identifier))
    if asked is not None:
        yield ChangeLine(kind, host_map, subnet, record.cidr, asked.generation, asked.request_ids)
    elif record.applied_generation < record.accepted_generation:
        yield ChangeLine(kind, host_map, subnet, record.cidr, record.accepted_generation)
    else:
        yield ChangeLine("drift-repaired", host_map, subnet, record.cidr, record.accepted_generation)


Told = list[ChangeLine] | dict[tuple[str, int], dict[str, int]]
"""Lines one by one, or counts by kind per network and generation where that would be too many."""


def told(lines: Iterable[ChangeLine], failed: Mapping[HostMap, str]) -> Told:
    """The lines of what was done, without what failed."""
    done = [line for line in lines if line.host_map not in failed]
    if len(done) <= MAX_LINES:
        return sorted(done, key=lambda line: (line.kind, line.host_map))
    counts: dict[tuple[str, int], dict[str, int]] = {}
    for line in done:
        of_subnet = counts.setdefault((line.cidr, line.generation), {})
        of_subnet[line.kind] = of_subnet.get(line.kind, 0) + 1
    return counts


def drift_of(lines: Iterable[ChangeLine], failed: Mapping[HostMap, str]) -> dict[str, int]:
    """Per subnet how many host maps were somebody else's doing and were put right."""
    repaired: dict[str, int] = {}
    for line in lines:
        if line.kind == "drift-repaired" and line.host_map not in failed:
            repaired[line.subnet] = repaired.get(line.subnet, 0) + 1
    return repaired


class ConvergenceLog:
    """Writes the lines. A change of more than MAX_LINES host maps is one line per subnet: it is a resynchronisation."""

    _log = Logger()

    def changes(self, lines: Told) -> None:
        """What the server was told and did."""
        if isinstance(lines, dict):
            self._in_bulk(lines)
            return
        for line in lines:
            self._log.info(
                _FORMATS[line.kind],
                event=f"host-map.{line.kind}",
                address=line.host_map.address,
                identifier=str(line.host_map.identifier),
                hostname=line.host_map.hostname,
                subnet=line.cidr,
                generation=line.generation,
                request_ids=list(line.request_ids),
            )

    def rejected(self, before: Rejected, now: Rejected, records: Mapping[str, SubnetRecord]) -> None:
        """What the server does not serve and had not been known not to."""
        lines = 0
        for subnet, rejections in now.items():
            record = records.get(subnet)
            for identifier, (host_map, reason) in rejections.items():
                if before.get(subnet, {}).get(identifier) == (host_map, reason):
                    continue
                lines += 1
                if lines <= MAX_LINES:
                    self.failed(host_map, record.cidr if record is not None else "", reason)
        if lines > MAX_LINES:
            self._log.warn(
                "{count} more host maps are not served", event="host-map.bulk-failed", count=lines - MAX_LINES
            )

    def failed(self, host_map: HostMap, cidr: str, reason: str) -> None:
        """One host map is not as it was asked for."""
        self._log.warn(
            "host map {identifier} → {address} in {subnet} failed: {reason}",
            event="host-map.failed",
            address=host_map.address,
            identifier=str(host_map.identifier),
            subnet=cidr,
            reason=reason,
        )

    def _in_bulk(self, counts: Mapping[tuple[str, int], Mapping[str, int]]) -> None:
        for (cidr, generation), count in counts.items():
            self._log.info(
                "host maps of {subnet}: {applied} applied, {removed} removed, {repaired} repaired",
                event="host-map.bulk-applied",
                subnet=cidr,
                generation=generation,
                applied=count.get("applied", 0),
                removed=count.get("removed", 0),
                repaired=count.get("drift-repaired", 0),
            )


_FORMATS = {
    "applied": "host map {identifier} → {address} in {subnet} applied",
    "removed": "host map {identifier} → {address} in {subnet} removed",
    "drift-repaired": "host map {identifier} → {address} in {subnet} was not as accepted: repaired",
}
