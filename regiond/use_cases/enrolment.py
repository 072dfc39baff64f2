"""How a cluster becomes one of this region, stays one, and stops being one.

`regionctl clusters enrol` makes a one-time token and prints the command that uses it up; the region then issues a
certificate for the cluster of the token's name. A known name keeps its ids, and what was issued for it before is
revoked. A revoked cluster's connections are cut here at once, by doorbell on the other regionds, and by a sweep where
the bell was not heard.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from cryptography import x509
from OpenSSL import SSL
from twisted.logger import Logger

from clusterd.daemon.mutual_tls import Credentials, TlsConnections, enrolment_listener_context, region_context
from clusterd.protocol.connection import Link
from clusterd.protocol.values import parse_name
from regiond.certificates import CERTIFICATE_LIFE, Authority, load_authority, make_authority, requested_key, to_pem
from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.reports import ClusterResponders
from regiond.domain import errors
from regiond.domain.accounts import SALT_BYTES, SECRET_BYTES, StoredSecret, hash_of, make_secret
from regiond.domain.identity import (
    EnrolmentOffer,
    NewEnrolment,
    Registered,
    format_enrolment_token,
    parse_enrolment_token,
)
from regiond.domain.ids import NewId, Prefix, format_id, parse_id
from regiond.domain.mutations import Actor, Forgotten, Mutation, Outcome, Step
from regiond.domain.views import ClusterView
from regiond.storage.certificates import CertificateStore, Enrolled, Issued, StoredAuthority
from regiond.storage.changes import Change
from regiond.use_cases.accounts import random_id
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.repeats import still_there
from regiond.use_cases.requests import RequestContext

DEFAULT_ENROLMENT_SECONDS: Final = 3600

_REGION = Actor(None, "region", True)
_ID = re.compile(r"cl-[0-9a-z]{10}")


class Mutations(Protocol):
    """`storage.writer.Writer`."""

    async def submit(self, mutation: Mutation) -> Outcome: ...


class Clusters(Protocol):
    """`inventory.Inventory`."""

    async def cluster(self, cluster_id: str) -> ClusterView: ...


class Topology(Protocol):
    """`storage.topology.ClusterStore`."""

    async def drain(self, cluster: int) -> None: ...

    async def forget(self, change: Change, cluster: int, held: Sequence[str]) -> None: ...

    async def was_done(self, change: Change) -> bool: ...


class Links(Protocol):
    """`cluster_rpc.links.ClusterLinkFactory`, the one of the TLS listeners."""

    def by_serial(self) -> dict[str, list[ClusterResponders]]: ...


def wall_clock() -> datetime:
    return datetime.now(UTC)


def random_serial() -> int:
    return x509.random_serial_number()


class RegionCertificates:
    """The region's authority, and this regiond's own certificate, which is renewed at half its life."""

    def __init__(self, authority: Authority, now: Callable[[], datetime] = wall_clock) -> None:
        self.authority = authority
        self._now = now
        self._contexts: tuple[datetime, SSL.Context, SSL.Context] | None = None

    @classmethod
    async def open(
        cls, store: CertificateStore, region: str, now: Callable[[], datetime] = wall_clock
    ) -> "RegionCertificates":
        """The authority of the database; it is made when there is none."""

        def make() -> StoredAuthority:
            made = make_authority(region, random_serial(), now())
            return StoredAuthority(made.certificate_pem, made.key_pem)

        stored = await store.authority(make)
        return cls(load_authority(region, stored.certificate, stored.key), now)

    def for_clusters(self) -> TlsConnections:
        """Mutual TLS with this region's clusters."""
        return TlsConnections(lambda: self._current()[1])

    def for_enrolment(self) -> TlsConnections:
        """TLS with whoever has no certificate yet."""
        return TlsConnections(lambda: self._current()[2])

    def _current(self) -> tuple[datetime, SSL.Context, SSL.Context]:
        now = self._now()
        if self._contexts is None or now > self._contexts[0]:
            own: Credentials = self.authority.for_listener(random_serial(), now)
            self._contexts = (
                now + CERTIFICATE_LIFE / 2,
                region_context(own, self.authority.region),
                enrolment_listener_context(own),
            )
        return self._contexts

    def issue(self, request: str) -> Callable[[int, str], Issued]:
        """What makes a certificate for the key of this signing request. Raises EnrolmentRefused."""
        key = requested_key(request)

        def make(cluster: int, name: str) -> Issued:
            cluster_id = format_id(Prefix.CLUSTER, cluster)
            made = self.authority.for_cluster(key, cluster_id, name, random_serial(), self._now())
            return Issued(f"{made.serial_number:x}", made.not_valid_after_utc, to_pem(made))

        return make


class Enrolment:
    """The use cases. `announce` is called when tokens, certificates or clusters came or went, and
    returns when this regiond has drawn its conclusions."""

    _log = Logger(namespace="region.clusters")

    def __init__(
        self,
        certificates: RegionCertificates,
        store: CertificateStore,
        clusters: Clusters,
        topology: Topology,
        writer: Mutations,
        announce: Callable[[], Awaitable[None]],
        *,
        new_id: NewId = random_id,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.certificates = certificates
        self._store = store
        self._clusters = clusters
        self._topology = topology
        self._writer = writer
        self._announce = announce
        self._new_id = new_id
        self._random_bytes = random_bytes
        self.address: str | None = None
        """Where clusters enrol, as they reach it; None while nothing listens for clusters on TCP."""
        self.endpoints: Sequence[str] = ()
        """Where enrolled clusters connect."""

    # ---- an admin's ----

    async def offer(self, context: RequestContext, name: str, *, seconds: int | None) -> EnrolmentOffer:
        """A token for a cluster of this name (or, for a known one, id).

        The secret is in the answer and nowhere else: the answer to a repeated idempotency key is without it. Raises
        NotPermitted, NotFound, InvalidRequest and NoClusterListener.
        """
        require_admin(context)
        if self.address is None:
            raise errors.NoClusterListener(
                "no cluster could connect after enrolling: this regiond listens on no TCP address; set [clusters] "
                'listen in its configuration, e.g. to ["tcp:[::]:5250"]'
            )
        name = await self._name(name)
        number, secret, salt = (
            self._new_id(),
            make_secret(self._random_bytes(SECRET_BYTES)),
            self._random_bytes(SALT_BYTES),
        )
        made, expires_at = await self._store.create_enrolment(
            context.change,
            name,
            number,
            StoredSecret(salt, hash_of(salt, secret)),
            seconds or DEFAULT_ENROLMENT_SECONDS,
        )
        if made != number:
            return self._offered(NewEnrolment(name, None, expires_at), self.address)
        self._log.info(
            "{actor} lets cluster {cluster} enrol until {expires_at}",
            event="enrolment.offered",
            cluster=name,
            actor=context.caller.name,
            expires_at=expires_at.isoformat(timespec="seconds"),
            request_id=context.request_id,
        )
        await self._announce()
        return self._offered(NewEnrolment(name, format_enrolment_token(number, secret), expires_at), self.address)

    def _offered(self, made: NewEnrolment, address: str) -> EnrolmentOffer:
        return EnrolmentOffer(made, address, self.certificates.authority.fingerprint)

    async def withdraw(self, context: RequestContext, name: str) -> None:
        """Make the name's token worthless. Raises NotPermitted and NotFound."""
        require_admin(context)
        name = await self._name(name)
        await self._store.withdraw_enrolment(context.change, name)
        await self._announce()

    async def revoke(self, context: RequestContext, cluster: str) -> ClusterView:
        """Refuse the cluster from now on. Raises NotPermitted and NotFound."""
        require_admin(context)
        view = await self._clusters.cluster(cluster)
        await self._revoke(context, context.change, view)
        return await self._clusters.cluster(format_id(Prefix.CLUSTER, view.id))

    async def forget(self, context: RequestContext, cluster: str, *, dhcp_is_off: bool) -> None:
        """Remove a cluster for good. While it may still serve host maps that takes `dhcp_is_off`: the admin's word
        that its DHCP server answers nobody. Its addresses still rest for the release hold.

        Raises NotPermitted, NotFound, ClusterHoldsHostMaps and StaleVersion: `If-Match` is asked with the revocation,
        which is the first that happens.
        """
        require_admin(context)
        if await self._topology.was_done(context.change):
            return  # and nothing is revoked under a key that stands for another request
        view = await still_there(
            lambda: self._clusters.cluster(cluster), lambda: self._topology.was_done(context.change)
        )
        if view is None:
            return
        held = await self._store.held_subnets(view.id)
        if held and not dhcp_is_off:
            cidrs = [cidr for _, cidr in held]
            raise errors.ClusterHoldsHostMaps(
                f"{view.name} may still serve host maps of {', '.join(cidrs[:5])}{', …' if len(cidrs) > 5 else ''}: "
                "when its DHCP server is off for good, say so with dhcp_is_off (regionctl: --dhcp-is-off)",
                subnets=cidrs,
            )
        # the key stands for all of it: it is used up by what happens last
        await self._revoke(context, replace(context.change, idempotency=None), view)
        steps: list[Step] = [Forgotten(view.id, subnet) for subnet, _ in held]
        if steps:
            await self._topology.drain(view.id)
            await self._writer.submit(Mutation(context.caller.actor, tuple(steps), request_id=context.request_id))
        await self._topology.forget(context.change, view.id, [cidr for _, cidr in held])
        self._log.warn(
            "cluster {cluster} was forgotten by {actor}",
            event="cluster.forgotten",
            cluster=view.name,
            id=format_id(Prefix.CLUSTER, view.id),
            actor=context.caller.name,
            dhcp_is_off=dhcp_is_off,
            subnets=[cidr for _, cidr in held],
            request_id=context.request_id,
        )

    async def _revoke(self, context: RequestContext, change: Change, view: ClusterView) -> None:
        serials = await self._store.revoke(change, view.id)
        if serials is None:
            return
        self._log.warn(
            "cluster {cluster} was revoked by {actor}",
            event="cluster.revoked",
            cluster=view.name,
            id=format_id(Prefix.CLUSTER, view.id),
            serials=list(serials),
            actor=context.caller.name,
            request_id=context.request_id,
        )
        await self._announce()

    async def _name(self, text: str) -> str:
        if _ID.fullmatch(text) and parse_id(Prefix.CLUSTER, text) is not None:
            return (await self._clusters.cluster(text)).name
        try:
            return parse_name(text)
        except ValueError as error:
            raise errors.InvalidRequest("", str(error)) from error

    # ---- a cluster's ----

    async def enrol(self, token: str, request: str, peer: str) -> tuple[Enrolled, str]:
        """A first certificate, and the authority's (PEM), for a token. Raises EnrolmentRefused."""
        parsed = parse_enrolment_token(token)
        issue = self.certificates.issue(request)
        if parsed is None:
            raise errors.EnrolmentRefused("the token is unknown, used or expired")
        enrolled = await self._store.enrol(Change(_REGION, "enrolment"), parsed.id, parsed.secret, issue)
        self._log.info(
            "cluster {cluster} has enrolled from {peer}",
            event="cluster.enrolled",
            cluster=enrolled.name,
            id=format_id(Prefix.CLUSTER, enrolled.cluster),
            serial=enrolled.certificate.serial,
            peer=peer,
        )
        await self._announce()
        return enrolled, self.certificates.authority.certificate_pem

    async def renew(self, registered: Registered, serial: str, request: str) -> tuple[str, str]:
        """The next certificate of a connected cluster, and the authority's (PEM). Raises EnrolmentRefused."""
        issue = self.certificates.issue(request)
        issued = await self._store.renew(Change(_REGION, "renewal"), registered, serial, issue)
        self._log.info(
            "cluster {cluster} has a new certificate",
            event="certificate.renewed",
            cluster=registered.name,
            id=format_id(Prefix.CLUSTER, registered.cluster),
            serial=issued.serial,
            former=serial,
        )
        return issued.pem, self.certificates.authority.certificate_pem


class Eviction:
    """Cuts the connections of whoever is not let in any more."""

    _log = Logger(namespace="region.clusters")

    def __init__(self, store: CertificateStore, links: Links, connections: Connections) -> None:
        self._store = store
        self._links = links
        self._connections = connections

    async def look(self) -> None:
        """By certificate, and by cluster for the links that have no certificate. Who has not registered yet is not cut
        but refused when it does: a cluster is told that it is revoked, however often it comes.
        """
        by_serial = self._links.by_serial()
        gone = await self._store.revoked_among(list(by_serial)) if by_serial else set()
        peers = [peer for serial in gone for peer in by_serial[serial]]
        for peer in peers:
            peer.newcomer.is_unwelcome = True
        links = [peer.link for peer in peers if peer.has_registered]
        connected = self._connections.clusters()
        refused = await self._store.refused_among(connected) if connected else set()
        registered = (self._connections.get(cluster) for cluster in refused)
        self._cut([*links, *(each.link for each in registered if each is not None)])

    def supersede(self, newest: dict[int, int]) -> None:
        """Cut those that have a newer connection to another regiond; `newest` is its number, by cluster."""
        held = [(self._connections.get(cluster), epoch) for cluster, epoch in newest.items()]
        self._cut([each.link for each, epoch in held if each is not None and each.epoch < epoch])

    def _cut(self, links: Iterable[Link]) -> None:
        for link in set(links):
            self._log.warn(
                "the connection from {peer} is cut: revoked, expired, or replaced",
                event="cluster.evicted",
                peer=link.peer,
            )
            link.abort()
