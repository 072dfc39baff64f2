"""What a registered cluster reports."""

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger

from clusterd.protocol import commands, errors
from clusterd.protocol.connection import Link
from clusterd.protocol.values import InterfaceReport, RejectedMap, ServerEntry, ServerPool
from regiond.cluster_rpc.newcomer import Newcomer
from regiond.cluster_rpc.pages import Pages
from regiond.cluster_rpc.registration import RegistrationResponders, Shared
from regiond.domain.first_contact import DhcpServerReport
from regiond.domain.ids import Prefix, parse_id

MAX_TOPOLOGY_ROWS = 20_000  # interfaces, and addresses and gateways of them
MAX_SERVER_ROWS = 500_000  # pools, static entries and their identifiers; a server of ours has at most 100,000 host maps


class ClusterResponders(RegistrationResponders):
    """Answers one cluster's commands."""

    _log = Logger(namespace="region.link")

    def __init__(self, link: Link, newcomer: Newcomer, shared: Shared) -> None:
        super().__init__(link, newcomer, shared)
        self._topology: Pages[Sequence[InterfaceReport]] = Pages(MAX_TOPOLOGY_ROWS, "interfaces and addresses")
        self._server: Pages[DhcpServerReport] = Pages(
            MAX_SERVER_ROWS, "pools, static entries and identifiers in its DHCP server"
        )

    @commands.ReportTopology.responder
    async def report_topology(
        self, sequence: int, page: int, pages: int, interfaces: Sequence[InterfaceReport]
    ) -> dict[str, Any]:
        connection = self._registered()
        rows = sum(1 + len(each.addresses) + len(each.gateways) for each in interfaces)
        whole = self._topology.add(sequence, page, pages, interfaces, rows)
        if whole is not None:
            reports = [report for page_of in whole for report in page_of]
            await self._in_turn(lambda: self._listeners.reports.topology(connection, reports))
        return {}

    @commands.ReportDhcpServer.responder
    async def report_dhcp_server(
        self,
        sequence: int,
        page: int,
        pages: int,
        pools: Sequence[ServerPool],
        entries: Sequence[ServerEntry],
        remarks: Sequence[str],
        error: str | None = None,
    ) -> dict[str, Any]:
        connection = self._registered()
        come = DhcpServerReport(pools, entries, remarks, error)
        rows = len(pools) + sum(1 + len(entry.identifiers) for entry in entries) + len(remarks)
        whole = self._server.add(sequence, page, pages, come, rows)
        if whole is not None:
            await self._in_turn(lambda: self._listeners.contact.report(connection, _as_one(whole)))
        return {}

    @commands.ReportHostMapState.responder
    async def report_host_map_state(
        self,
        history: str,
        subnet: str,
        applied_generation: int,
        rejected: Sequence[RejectedMap],
        error: str | None = None,
        drift_repaired: int | None = None,
    ) -> dict[str, Any]:
        connection = self._registered()
        if history != connection.history:
            raise errors.HistoryMismatch(connection.history)
        number = parse_id(Prefix.SUBNET, subnet)
        if drift_repaired:
            self._log.warn(
                "{count} host maps of {subnet} had been changed in the DHCP server of {cluster} and are put right",
                event="delivery.drift-repaired",
                cluster=connection.name,
                subnet=subnet,
                count=drift_repaired,
            )
            if number is not None:
                await self._heard(self._listeners.reports.drifted(connection, number, drift_repaired))
        if number is not None:
            await self._heard(
                self._listeners.reports.host_map_state(connection, number, applied_generation, rejected, error)
            )
        return {}


def _as_one(pages: Sequence[DhcpServerReport]) -> DhcpServerReport:
    said = [page.error for page in pages if page.error is not None]
    return DhcpServerReport(
        [pool for page in pages for pool in page.pools],
        [entry for page in pages for entry in page.entries],
        [remark for page in pages for remark in page.remarks],
        said[-1] if said else None,
    )
