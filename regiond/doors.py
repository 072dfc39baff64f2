"""The doors of a region: where programs, operators, clusters and newcomers connect."""

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from clusterd.daemon.endpoints import LinkAddress, LocalAddress, LoopbackAddress, TlsAddress, UnixAddress
from clusterd.daemon.handshakes import Admission
from clusterd.daemon.mutual_tls import TlsConnections
from regiond.config import HttpAddress, HttpsAddress, RegionSettings
from regiond.enrolment_door import EnrolmentDoor, EnrolmentFactory
from regiond.file_limit import connections_that_fit
from regiond.http.site import ApiSite
from regiond.http.tls import ServerCertificate
from regiond.region import Region


class Doors:
    """The listeners of one regiond. Opened once, closed once; what was accepted is finished in between."""

    def __init__(self, reactor: Any, settings: RegionSettings, region: Region) -> None:
        self._reactor = reactor
        self._settings = settings
        self._region = region
        self._ports: list[IListeningPort] = []
        self._sites: list[ApiSite] = []
        self._admission = Admission(reactor)
        self._http_admission = Admission(reactor)

    async def open(self) -> tuple[list[HttpAddress], list[LinkAddress]]:
        """Where the HTTP API and where the clusters' listener are to be found."""
        clusters = [await self._listen_for_clusters(address) for address in self._settings.cluster_listen]
        self._prepare_enrolment(clusters)
        most = connections_that_fit(self._settings.http.max_connections)
        site = ApiSite(self._reactor, self._region.application, local=False, most=most)
        local = ApiSite(self._reactor, self._region.application, local=True)
        self._sites = [site, local]
        self._region.metrics.sites += self._sites
        http: list[HttpAddress] = [await self._listen_for_programs(each, site) for each in self._settings.http.listen]
        http.append(await self._listen(self._settings.api_socket, local))
        return http, clusters

    async def close(self) -> None:
        """Nobody new is let in."""
        for port in self._ports:
            await _finished(port.stopListening())

    async def finish(self) -> None:
        """What was accepted is answered."""
        for site in self._sites:
            site.close()
        for site in self._sites:
            await site.finished()

    async def _listen(self, address: LocalAddress, factory: Any) -> LocalAddress:
        """Where it listens: the port is the one that was chosen where the setting leaves it open."""
        port: Any = await address.server_endpoint(self._reactor).listen(factory)
        self._ports.append(port)
        return address if isinstance(address, UnixAddress) else LoopbackAddress(address.host, port.getHost().port)

    async def _listen_for_programs(self, address: HttpAddress, site: ApiSite) -> HttpAddress:
        if not isinstance(address, HttpsAddress):
            return await self._listen(address, site)
        settings = self._settings.http
        assert settings.certificate is not None and settings.private_key is not None
        connections = TlsConnections(ServerCertificate(settings.certificate, settings.private_key).context)
        port: Any = await address.server_endpoint(self._reactor, connections, self._http_admission).listen(site)
        self._ports.append(port)
        return HttpsAddress(address.host, port.getHost().port)

    async def _listen_for_clusters(self, address: LinkAddress) -> LinkAddress:
        if isinstance(address, UnixAddress):
            self._ports.append(await address.server_endpoint(self._reactor).listen(self._region.plain_links))
            return address
        connections = self._region.enrolment.certificates.for_clusters()
        endpoint = address.server_endpoint(self._reactor, connections, self._admission)
        port: Any = await endpoint.listen(self._region.links)
        self._ports.append(port)
        return TlsAddress(address.host, port.getHost().port)

    def _prepare_enrolment(self, clusters: Sequence[LinkAddress]) -> None:
        """Clusters can enrol where they can connect."""
        region = self._region
        listen = self._settings.enrolment_listen
        told = self._settings.clusters.endpoints
        # Only what was said: one regiond's own address would be all that its clusters know of the others.
        region.links.endpoints = [str(address) for address in told]
        reached = [*told] or [_as_reached(address) for address in clusters if isinstance(address, TlsAddress)]
        if listen is None or not reached:
            return
        region.enrolment.endpoints = [str(address) for address in reached]
        first = reached[0]
        assert isinstance(first, TlsAddress)
        connections = region.enrolment.certificates.for_enrolment()
        factory = EnrolmentFactory(self._reactor, region.enrolment.certificates.authority.region, region.enrolment)

        async def open_port() -> IListeningPort:
            port: Any = await listen.server_endpoint(self._reactor, connections, self._admission).listen(factory)
            region.enrolment.address = str(TlsAddress(first.host, port.getHost().port))
            return cast(IListeningPort, port)

        region.door = EnrolmentDoor(open_port, factory, region.is_enrolling)
        region.enrolment.address = str(TlsAddress(first.host, listen.port))
        region.door.look()


async def _finished(maybe: Any) -> None:
    if isinstance(maybe, Deferred):
        await maybe


def _as_reached(address: TlsAddress) -> TlsAddress:
    """What clusters are told of a listener: this host's name where it listens on all addresses."""
    return TlsAddress(socket.getfqdn(), address.port) if ip_address(address.host).is_unspecified else address
