"""Enrolment, identity, revocation, renewal: regionds on a real PostgreSQL, clusters over real TLS on loopback."""

import json
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as global_reactor
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols import amp
from zope.interface import implementer

from clusterd.daemon.config_file import validate
from clusterd.daemon.endpoints import TlsAddress, parse_link_address
from clusterd.daemon.json_logs import render_json
from clusterd.daemon.mutual_tls import PeerName, TlsConnections, enrolling_context, name_of, serial_of
from clusterd.protocol import commands, errors
from clusterd.protocol.connection import Link, LinkLost
from clusterd.protocol.values import InterfaceReport
from clusterd.region_link.certificate_renewal import CertificateRenewal
from clusterd.region_link.identity import EnrolledEndpoint, IdentityFile, IdentityUnusable, new_key, signing_request
from clusterd.region_link.join import NotJoined, enrol
from regiond.cluster_rpc.links import MAX_LINKS_EACH
from regiond.config import RegionSettings
from regiond.domain import versions
from regiond.domain.errors import (
    ClusterHoldsHostMaps,
    EnrolmentRefused,
    NoClusterListener,
    NotFound,
    NotPermitted,
    StaleVersion,
)
from regiond.domain.identity import EnrolmentOffer, Registered
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Actor
from regiond.domain.views import ClusterView
from regiond.enrolment_door import MAX_REFUSALS
from regiond.region import Region
from regiond.service import RegionDaemon
from regiond.storage.certificates import MAX_CERTIFICATES_A_DAY, CertificateStore
from regiond.storage.changes import Change
from regiond.storage.cluster_edits import ClusterEditStore
from regiond.storage.recovery import RecoveryStore
from regiond.use_cases.accounts import random_id
from regiond.use_cases.enrolment import Enrolment
from regiond.use_cases.requests import Caller, RequestContext
from tests.certificates import now
from tests.fakes.cluster import FakeCluster
from tests.waiting import until

reactor: Any = global_reactor
ROOT = Path(__file__).parents[3]


@dataclass
class Regiond:
    """The daemon as it is wired in earnest, in this process."""

    daemon: RegionDaemon
    admin: RequestContext

    @property
    def region(self) -> Region:
        assert self.daemon._region is not None
        return self.daemon._region

    async def offer(self, name: str = "rack-7") -> EnrolmentOffer:
        return await self.region.enrolment.offer(self.admin, name, seconds=None)


@dataclass
class World:
    """Regionds on one database, hosts that enrol, and every log line."""

    directory: Path
    dsn: str
    regionds: list[Regiond] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    log: list[LogEvent] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    async def start(self, listen: str = "tcp:127.0.0.1:0") -> Regiond:
        settings = validate(
            {
                "state_directory": str(self.directory / f"region-{len(self.regionds)}"),
                "http": {"listen": []},
                "clusters": {"listen": [listen.format(self.directory)], "enrolment": "tcp:127.0.0.1:0"},
                "database": {"dsn": self.dsn},
            },
            RegionSettings,
            "test",
        )
        daemon = RegionDaemon(reactor, settings, fail_at_exit=lambda: None)
        daemon.startService()
        assert daemon._starting is not None
        await daemon._starting
        assert daemon._region is not None, self.log[-5:]
        local = await daemon._region.accounts.local_caller()
        self.regionds.append(Regiond(daemon, RequestContext(local, "request-1", wait_seconds=0)))
        return self.regionds[-1]

    async def enrol(self, offer: EnrolmentOffer, host: str = "host-a") -> IdentityFile:
        """What the printed command does, as far as a host notices."""
        self.secrets.append(token_of(offer).split("_", 2)[2])
        identity = await enrol(reactor, address_of(offer), offer.fingerprint, token_of(offer))
        file = IdentityFile(self.directory / host / "identity" / "identity.json")
        file.save(identity)
        self.secrets.append(json.loads(file.path.read_text())["private_key"].splitlines()[2])
        return file

    async def connect(self, file: IdentityFile, regiond: Regiond | None = None) -> Link:
        """A TLS connection; whether the region lets it in shows when it registers."""
        (address,) = [parse_link_address(text) for text in (regiond or self.regionds[0]).region.enrolment.endpoints]
        assert isinstance(address, TlsAddress)
        link = Link(reactor)
        await EnrolledEndpoint(reactor, address, file).connect(gives(link))
        self.links.append(link)
        return link

    async def register(
        self, file: IdentityFile, regiond: Regiond | None = None, *, instance: str = "i", **claimed: Any
    ) -> tuple[Link, dict[str, Any]]:
        link = await self.connect(file, regiond)
        return link, await register(link, instance=instance, **claimed)

    def events(self, name: str) -> list[LogEvent]:
        return [event for event in self.log if event.get("event") == name]


async def register(link: Link, **claimed: Any) -> dict[str, Any]:
    return await link.call(
        commands.Register,
        protocol_version=commands.PROTOCOL_VERSION,
        software_version="1",
        hostname="host",
        backend="file",
        held=(),
        **claimed,
    )


def gives(link: Link) -> Factory:
    return Factory.forProtocol(lambda: link)


def token_of(offer: EnrolmentOffer) -> str:
    assert offer.enrolment.text is not None
    return offer.enrolment.text


def address_of(offer: EnrolmentOffer) -> TlsAddress:
    address = parse_link_address(offer.address)
    assert isinstance(address, TlsAddress)
    return address


@pytest_twisted.async_yield_fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, database)

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        made.log.append(event)

    globalLogPublisher.addObserver(observe)
    yield made
    for link in made.links:
        if link.connected_now:
            lost: Any = link.lost
            link.abort()
            await lost
    for one in made.regionds:
        await one.daemon.stopService()
    globalLogPublisher.removeObserver(observe)
    lines = "\n".join(map(render_json, made.log))
    assert not [secret for secret in made.secrets if secret in lines], "a secret is in the log"
    assert "PRIVATE KEY" not in lines and "Traceback" not in lines


@asynccontextmanager
async def refused(kind: type[Exception], words: str) -> AsyncIterator[None]:
    with pytest.raises(kind, match=words):
        yield


@pytest_twisted.ensureDeferred
async def test_a_host_enrols_and_is_the_cluster_of_the_token(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer("Rack-7")
    assert offer.command == f"echo {token_of(offer)} | python3 -m clusterd join {offer.address} {offer.fingerprint}"
    file = await world.enrol(offer)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    identity = file.load()
    view = await regiond.region.inventory.cluster("rack-7")
    assert (identity.name, identity.cluster) == ("rack-7", format_id(Prefix.CLUSTER, view.id))
    life = identity.credentials.certificate.not_valid_after_utc - identity.credentials.certificate.not_valid_before_utc
    assert life.days == 400
    assert 6 <= (now() - identity.credentials.certificate.not_valid_before_utc).days <= 7
    # Identity comes from the certificate, whatever is claimed.
    _, answer = await world.register(file, cluster="rack-8")
    assert answer["cluster"] == identity.cluster
    (view,) = await regiond.region.inventory.clusters()
    assert (view.name, view.connected) == ("rack-7", True)
    assert view.certificate_expires == identity.credentials.certificate.not_valid_after_utc
    assert [event["peer"].startswith("127.0.0.1:") for event in world.events("cluster.enrolled")] == [True]
    audited = await regiond.region.reads._pool.query("SELECT actor, action FROM audit ORDER BY id")
    assert [tuple(row) for row in audited] == [("local", "cluster.enrolment-create"), ("region", "cluster.enrol")]


@pytest_twisted.ensureDeferred
async def test_a_token_works_once_and_the_door_is_closed_without_one(world: World) -> None:
    regiond = await world.start()
    first = await regiond.offer()
    await world.enrol(first)
    await until(lambda: bool(world.events("enrolment.closed")))
    async with refused(NotJoined, "nobody takes clusters in .* Get a new one"):
        await world.enrol(first, "host-b")
    other = await regiond.offer("rack-8")  # the door is open again
    again = EnrolmentOffer(first.enrolment, other.address, other.fingerprint)
    async with refused(NotJoined, "unknown, used or expired"):
        await world.enrol(again, "host-b")
    (line,) = world.events("enrolment.refused")
    assert line["peer"].startswith("127.0.0.1:")
    assert [view.name for view in await regiond.region.inventory.clusters()] == ["rack-7"]


@pytest_twisted.ensureDeferred
async def test_an_expired_replaced_or_withdrawn_token_is_worthless(world: World) -> None:
    regiond = await world.start()
    pool = regiond.region.reads._pool
    keeps_the_door_open = await regiond.offer("rack-9")
    replaced, expired = await regiond.offer(), await regiond.offer()
    await pool.execute("UPDATE enrolment SET expires_at = now() WHERE name = 'rack-7'")
    withdrawn = await regiond.offer("rack-8")
    once = replace(regiond.admin, idempotency_key="w", fingerprint="f")
    for _ in range(2):  # the second time because the answer got lost
        await regiond.region.enrolment.withdraw(once, "rack-8")
    for offer in (replaced, expired, withdrawn):
        async with refused(NotJoined, "unknown, used or expired"):
            await world.enrol(offer)
    async with refused(NotFound, "no enrolment token"):
        await regiond.region.enrolment.withdraw(regiond.admin, "rack-8")
    await world.enrol(keeps_the_door_open)


@pytest_twisted.ensureDeferred
async def test_who_enrols_looks_at_the_fingerprint_before_it_tells_the_token(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    async with refused(NotJoined, "another authority"):
        await enrol(reactor, address_of(offer), f"sha256:{'0' * 64}", token_of(offer))
    assert world.events("enrolment.refused") == []
    await world.enrol(offer)


def request_for_others() -> tuple[Any, str]:
    key = new_key()
    names = [x509.UniformResourceIdentifier("hostmap://x/region"), x509.DNSName("region.example")]
    request = (
        x509.CertificateSigningRequestBuilder(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the region itself")])
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    return key, request.public_bytes(Encoding.PEM).decode()


async def ask_to_enrol(world: World, offer: EnrolmentOffer, token: str, request: str) -> Any:
    link = await at_the_door(world, offer)
    return await link.call(commands.Enrol, token=token, request=request)


@pytest_twisted.ensureDeferred
async def test_names_in_a_signing_request_are_not_looked_at(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    key, request = request_for_others()
    answer = await ask_to_enrol(world, offer, token_of(offer), request)
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert name_of(certificate) == PeerName(answer["region"], answer["cluster"])
    assert certificate.subject.rfc4514_string() == "CN=rack-7"
    assert certificate.public_key() == key.public_key()
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest_twisted.ensureDeferred
async def test_signing_requests_that_prove_nothing_are_refused_and_cost_no_token(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    good = signing_request(new_key())
    body = x509.load_pem_x509_csr(good.encode()).public_bytes(Encoding.DER)
    tampered = x509.load_der_x509_csr(body[:-1] + bytes([body[-1] ^ 1])).public_bytes(Encoding.PEM).decode()
    with_rsa = (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .sign(rsa.generate_private_key(65537, 2048), SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    for request in ("", "nonsense", tampered, with_rsa, good.replace("REQUEST", "CERTIFICATE")):
        async with refused(errors.EnrolmentRefused, "signing request|P-256"):
            await ask_to_enrol(world, offer, token_of(offer), request)
    assert len(world.events("enrolment.refused")) == 5
    await world.enrol(offer)


async def at_the_door(world: World, offer: EnrolmentOffer) -> Link:
    """A connection to the enrolment listener."""
    link = Link(reactor)
    world.links.append(link)
    connections = TlsConnections(lambda: enrolling_context(offer.fingerprint))
    await address_of(offer).client_endpoint(reactor, connections).connect(gives(link))
    return link


@pytest_twisted.ensureDeferred
async def test_the_enrolment_listener_speaks_one_command_once(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    link = await at_the_door(world, offer)
    with pytest.raises(errors.UnknownCommand):
        await link.call(commands.Ping)
    with pytest.raises(errors.UnknownCommand):
        await link.call(commands.RenewCertificate, request="x")
    for words in ("unknown, used or expired", "too many attempts"):
        async with refused(errors.EnrolmentRefused, words):
            await link.call(commands.Enrol, token="hme_x", request=signing_request(new_key()))
    with pytest.raises(LinkLost):
        await link.call(commands.Enrol, token="hme_x", request=signing_request(new_key()))
    assert len(world.events("enrolment.refused")) == 2, "whoever goes on does not fill the log"


@pytest_twisted.ensureDeferred
async def test_whoever_may_be_anybody_takes_little_memory(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    link = await at_the_door(world, offer)
    link.sendBox(amp.AmpBox({amp.COMMAND: b"Enrol", b"token": bytes(40_000), b"request": bytes(40_000)}))
    await until(lambda: not link.connected_now)
    (line,) = world.events("link.broken")
    assert line["peer"].startswith("127.0.0.1:") and "bytes" in line["reason"]


@pytest_twisted.ensureDeferred
async def test_one_certificate_is_for_a_few_connections_and_the_others_are_undisturbed(world: World) -> None:
    regiond = await world.start()
    file, other = await world.enrol(await regiond.offer()), await world.enrol(await regiond.offer("rack-8"), "host-b")
    served, _ = await world.register(file)
    honest, _ = await world.register(other)
    many = [await world.connect(file) for _ in range(MAX_LINKS_EACH + 3)]
    await until(lambda: len(world.events("link.surplus")) == 4)
    await until(lambda: [link.connected_now for link in many] == [False] * 4 + [True] * (MAX_LINKS_EACH - 1))
    assert {line["cluster"] for line in world.events("link.surplus")} == {"rack-7"}
    assert served.connected_now and honest.connected_now
    await register(many[-1], instance="i")
    await until(lambda: not served.connected_now)
    assert honest.connected_now
    assert len(regiond.region.links.by_serial()) == 2


@pytest_twisted.ensureDeferred
async def test_who_is_refused_too_often_is_not_listened_to(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    for _ in range(MAX_REFUSALS):
        async with refused(errors.EnrolmentRefused, "unknown"):
            await ask_to_enrol(world, offer, "hme_x", signing_request(new_key()))
    with pytest.raises((ConnectError, LinkLost, errors.EnrolmentRefused)):
        await ask_to_enrol(world, offer, token_of(offer), signing_request(new_key()))
    assert await regiond.region.is_enrolling(), "the right token was not used up"


@pytest_twisted.ensureDeferred
async def test_a_revoked_cluster_is_cut_at_once_wherever_it_is_connected(world: World) -> None:
    here, there = await world.start(), await world.start()
    assert here.region.enrolment.certificates.authority.fingerprint == (
        there.region.enrolment.certificates.authority.fingerprint
    ), "one authority"
    file = await world.enrol(await here.offer())
    bystander = await world.enrol(await there.offer("rack-8"), "host-b")
    link, _ = await world.register(file, there)
    other, _ = await world.register(bystander, there)
    view = await here.region.enrolment.revoke(here.admin, "rack-7")
    assert view.revoked is not None and view.certificate_expires is None
    await until(lambda: not link.connected_now, 20)
    assert other.connected_now
    for regiond in (here, there):
        async with refused(errors.RegistrationRefused, "revoked"):
            await world.register(file, regiond)
    assert {line["cluster"] for line in world.events("cluster.refused")} == {"rack-7"}
    assert len(world.events("cluster.refused")) == 2
    # Enrolling it again ends that, and keeps its id.
    again = await world.enrol(await here.offer(), "host-c")
    assert again.load().cluster == file.load().cluster
    await world.register(again)
    async with refused(errors.RegistrationRefused, "revoked"):
        await world.register(file)


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_is_renamed_while_it_is_revoked_cannot_enrol_by_its_new_name(world: World) -> None:
    regiond = await world.start()
    await world.enrol(await regiond.offer())
    region, admin = regiond.region, regiond.admin
    await regiond.offer()

    async def announce() -> None: ...

    store = CertificateStore(region.reads._pool, random_id)
    clusters = RenamedMeanwhile(region)
    revoking = Enrolment(region.enrolment.certificates, store, clusters, region.clusters, region.writer, announce)
    view = await revoking.revoke(admin, "rack-7")
    assert (view.name, view.revoked is not None) == ("rack-8", True)
    async with refused(NotFound, "no enrolment token for rack-8"):
        await region.enrolment.withdraw(admin, "rack-8")


class RenamedMeanwhile:
    """Clusters of which each has another name as soon as somebody has looked for it."""

    def __init__(self, region: Region) -> None:
        self._region = region

    async def cluster(self, cluster_id: str) -> ClusterView:
        found = await self._region.inventory.cluster(cluster_id)
        edits = ClusterEditStore(self._region.reads._pool, random_id)
        if found.name != "rack-8":
            await edits.change(Change(Actor(None, "test", True), "renaming"), found.id, name="rack-8")
        return found


@pytest_twisted.ensureDeferred
async def test_a_revoked_cluster_hears_why_it_is_refused_whoever_looks_for_revoked_ones_meanwhile(world: World) -> None:
    regiond = await world.start()
    file = await world.enrol(await regiond.offer())
    early = await world.connect(file)
    await regiond.region.enrolment.revoke(regiond.admin, "rack-7")
    late = await world.connect(file)
    # It cannot be told when the region has this end of it: TLS 1.3 is over for a client before it is for a server.
    await until(lambda: sum(map(len, regiond.region.links.by_serial().values())) == 2)
    await regiond.region.eviction.look()
    for link in (early, late):
        async with refused(errors.RegistrationRefused, "revoked"):
            await register(link)
        await regiond.region.eviction.look()
    assert world.events("cluster.evicted") == []


@pytest_twisted.ensureDeferred
async def test_enrolling_a_name_again_revokes_what_was_issued_before(world: World) -> None:
    regiond = await world.start()
    file = await world.enrol(await regiond.offer())
    link, _ = await world.register(file)
    newer = await world.enrol(await regiond.offer(), "host-b")
    await until(lambda: not link.connected_now, 20)
    assert newer.load().cluster == file.load().cluster
    async with refused(errors.RegistrationRefused, "revoked"):
        await world.register(file)
    await world.register(newer)


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_renewed_over_the_link_at_half_its_life(world: World) -> None:
    regiond = await world.start()
    file = await world.enrol(await regiond.offer())
    before, written = file.load(), file.path.read_text()
    link, _ = await world.register(file)

    async def renew(request: str) -> tuple[str, str]:
        answer = await link.call(commands.RenewCertificate, request=request)
        return answer["certificate"], answer["authority"]

    begin = before.credentials.certificate.not_valid_before_utc
    end = before.credentials.certificate.not_valid_after_utc
    half = begin + (end - begin) / 2
    moment = [half.replace(year=half.year - 1)]
    renewal = CertificateRenewal(reactor, file, renew, lambda: moment[0])
    await renewal.look()
    assert file.path.read_text() == written, "not yet"
    moment[0] = half
    await renewal.look()
    after, written = file.load(), file.path.read_text()
    assert (after.cluster, after.name, after.endpoints) == (before.cluster, before.name, before.endpoints)
    assert after.credentials.certificate != before.credentials.certificate
    assert after.credentials.key.private_numbers() != before.credentials.key.private_numbers()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    await world.register(file)
    # Not one that the database has lost. (The connection of a revoked one may be cut before it asks.)
    execute = regiond.region.reads._pool.execute
    await execute("UPDATE certificate SET serial = 'lost-' || serial")
    link = world.links[-1]
    moment[0] = after.credentials.certificate.not_valid_after_utc
    await renewal.look()
    assert file.path.read_text() == written
    assert [line["cluster"] for line in world.events("certificate.renewal-refused")] == ["rack-7"]
    assert len(world.events("certificate.not-renewed")) == 1
    # A revoked one is not renewed either: who revokes has the last word.
    await execute("UPDATE certificate SET serial = substr(serial, 6), revoked = now()")
    cluster = await regiond.region.inventory.cluster("rack-7")
    owner = Registered(cluster.id, 1, "rack-7", history="h")
    async with refused(EnrolmentRefused, "revoked"):
        await regiond.region.enrolment.renew(
            owner, serial_of(after.credentials.certificate), signing_request(new_key())
        )


@pytest_twisted.ensureDeferred
async def test_a_cluster_gets_a_bounded_number_of_certificates_a_day(world: World) -> None:
    regiond = await world.start()
    file = await world.enrol(await regiond.offer())
    link, _ = await world.register(file)
    request = signing_request(new_key())
    for _ in range(MAX_CERTIFICATES_A_DAY - 1):  # and the one that it enrolled with
        await link.call(commands.RenewCertificate, request=request)
    async with refused(errors.EnrolmentRefused, "within a day"):
        await link.call(commands.RenewCertificate, request=request)
    assert [line["cluster"] for line in world.events("certificate.renewal-refused")] == ["rack-7"]
    await regiond.region.reads._pool.execute("UPDATE certificate SET issued = issued - interval '1 day'")
    await link.call(commands.RenewCertificate, request=request)


@pytest_twisted.ensureDeferred
async def test_two_hosts_with_one_identity_raise_an_alarm_and_a_restart_does_not(world: World) -> None:
    here, there = await world.start(), await world.start()
    file = await world.enrol(await here.offer())
    await world.register(file, here, instance="first-start")
    await world.register(file, here, instance="after-a-restart")
    await world.register(file, here, instance="after-a-restart")
    assert world.events("cluster.takes-turns") == []
    await world.register(file, there, instance="the-clone")
    assert world.events("cluster.takes-turns") == [], "it may have been restarted"
    await world.register(file, here, instance="after-a-restart")
    (alarm,) = world.events("cluster.takes-turns")
    assert alarm["cluster"] == "rack-7" and alarm["peer"].startswith("127.0.0.1:")
    assert (await here.region.inventory.cluster("rack-7")).turns_seen is not None


@pytest_twisted.ensureDeferred
async def test_a_connection_to_another_regiond_ends_the_older_one(world: World) -> None:
    here, there = await world.start(), await world.start()
    file = await world.enrol(await here.offer())
    older, _ = await world.register(file, here)
    newer, _ = await world.register(file, there)
    await here.region._heartbeat()
    await until(lambda: not older.connected_now, 20)
    await there.region._heartbeat()
    assert newer.connected_now


@pytest_twisted.ensureDeferred
async def test_after_a_restore_a_cluster_from_after_the_backup_is_let_in(world: World) -> None:
    regiond = await world.start()
    pool = regiond.region.reads._pool
    file = await world.enrol(await regiond.offer())
    await pool.execute("DELETE FROM certificate; DELETE FROM cluster")
    _, answer = await world.register(file)
    assert answer["cluster"] == file.load().cluster
    assert [line["cluster"] for line in world.events("certificate.adopted")] == ["rack-7"]
    assert (await regiond.region.inventory.cluster("rack-7")).connected
    # But not one from before the last enrolment that the database knows of.
    await pool.execute("DELETE FROM certificate; UPDATE cluster SET enrolled = now() + interval '1 day'")
    async with refused(errors.RegistrationRefused, "replaced by another enrolment"):
        await world.register(file)


@pytest_twisted.ensureDeferred
async def test_a_forgotten_cluster_is_gone_and_stays_out(world: World) -> None:
    regiond = await world.start()
    enrolment, inventory = regiond.region.enrolment, regiond.region.inventory
    file = await world.enrol(await regiond.offer())
    link, _ = await world.register(file)
    link.answer_with(FakeCluster("rack-7"))  # which accepts host maps and never says that they are applied
    reports = (InterfaceReport("eth0", "192.0.2.0/24", ("192.0.2.1",)),)
    await link.call(commands.ReportTopology, sequence=1, page=0, pages=1, interfaces=reports)
    claims, pool = regiond.region.claims, regiond.region.reads._pool
    nothing: dict[str, Any] = dict.fromkeys(("duid", "address", "hostname", "owner", "comment"))
    device, _ = await claims.create_device(
        regiond.admin, interface="192.0.2.0/24", macs=("02:00:00:00:00:01",), **nothing
    )
    await claims.delete_device(regiond.admin, format_id(Prefix.DEVICE, device.id), force=False)
    waiting = await pool.query("SELECT status, confirmed_at FROM reservation")
    assert [tuple(row) for row in waiting] == [("releasing", None)], "the cluster has not confirmed"
    with pytest.raises(ClusterHoldsHostMaps) as caught:
        await enrolment.forget(regiond.admin, "rack-7", dhcp_is_off=False)
    assert caught.value.members["subnets"] == ["192.0.2.0/24"]
    assert link.connected_now
    seen = versions.of_cluster((await inventory.cluster("rack-7")).id, "rack-7", "default")
    with pytest.raises(StaleVersion) as stale:
        await enrolment.forget(replace(regiond.admin, if_match=frozenset({'"then"'})), "rack-7", dhcp_is_off=True)
    assert stale.value.members["etag"] == seen
    assert link.connected_now and (await inventory.cluster("rack-7")).revoked is None, "nothing was done"
    fresh = replace(regiond.admin, if_match=frozenset({seen}), idempotency_key="k", fingerprint="f")
    for _ in range(2):  # the second time because the answer got lost
        await enrolment.forget(fresh, "rack-7", dhcp_is_off=True)
    with pytest.raises(NotFound):
        await enrolment.forget(regiond.admin, "rack-7", dhcp_is_off=True)
    await until(lambda: not link.connected_now, 20)
    rests = await pool.query(
        "SELECT status, confirmed_at <= now(), free_at > now() + interval '9 minutes' FROM reservation"
    )
    assert [tuple(row) for row in rests] == [("releasing", True, True)], "it still rests for the release hold"
    audited = await pool.query("SELECT before FROM audit WHERE action = 'cluster.forget'")
    assert audited[0][0] == {"name": "rack-7", "held": ["192.0.2.0/24"], "dhcp_is_off": True}
    assert list(await inventory.clusters()) == []
    assert list(await inventory.interfaces(None)) == []
    (subnet,) = await inventory.subnets()
    assert subnet.clusters == ()
    async with refused(errors.RegistrationRefused, "revoked"):
        await world.register(file)
    # The name is free, for another cluster.
    again = await world.enrol(await regiond.offer(), "host-b")
    assert again.load().cluster != file.load().cluster
    await world.register(again)


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_a_recovery_waits_for_can_be_revoked_and_forgotten(world: World) -> None:
    regiond = await world.start()
    enrolment, pool = regiond.region.enrolment, regiond.region.reads._pool
    link, _ = await world.register(await world.enrol(await regiond.offer()))
    reports = (InterfaceReport("eth0", "192.0.2.0/24", ("192.0.2.1",)),)
    await link.call(commands.ReportTopology, sequence=1, page=0, pages=1, interfaces=reports)
    # It serves nothing any more, as far as this database knows.
    await pool.execute("UPDATE delivery SET role = 'former'")
    store = RecoveryStore(pool, random_id)
    assert await store.begin(regiond.admin.change, "a backup was restored") is not None
    await until(lambda: not link.connected_now, 20)

    async def advice() -> str:
        (waited_for,) = (await store.view()).clusters
        assert waited_for.unheard and waited_for.advice is not None
        return waited_for.advice

    assert "start its clusterd" in await advice()
    await enrolment.revoke(regiond.admin, "rack-7")
    assert "regionctl clusters enrol rack-7" in await advice()
    with pytest.raises(ClusterHoldsHostMaps) as caught:
        await enrolment.forget(regiond.admin, "rack-7", dhcp_is_off=False)
    assert caught.value.members["subnets"] == ["192.0.2.0/24"]
    await enrolment.forget(regiond.admin, "rack-7", dhcp_is_off=True)

    async def is_over() -> bool:
        return (await store.view()).since is None

    await until(is_over, 20)
    shown = await store.view()
    assert (shown.clusters, shown.subnets, shown.counts) == ((), (), {"given-up": 1})
    assert "rack-7 was not heard" in shown.findings[0].detail
    [(audited,)] = await pool.query("SELECT before->'not_heard_of' FROM audit WHERE action = 'cluster.forget'")
    assert audited == ["192.0.2.0/24"]


@pytest_twisted.ensureDeferred
async def test_only_an_admin_decides_and_only_where_clusters_can_connect(world: World) -> None:
    regiond = await world.start("unix:{}/link.sock")
    async with refused(NoClusterListener, "listens on no TCP address"):
        await regiond.offer()
    user = RequestContext(Caller(9, "alice", is_admin=False, read_only=False), "request-2")
    enrolment = regiond.region.enrolment
    for attempt in (
        lambda: enrolment.offer(user, "rack-7", seconds=None),
        lambda: enrolment.withdraw(user, "rack-7"),
        lambda: enrolment.revoke(user, "rack-7"),
        lambda: enrolment.forget(user, "rack-7", dhcp_is_off=True),
    ):
        async with refused(NotPermitted, "admin"):
            await attempt()


@pytest_twisted.ensureDeferred
async def test_the_listeners_certificate_is_no_file_and_the_authority_is_in_the_database(world: World) -> None:
    regiond = await world.start()
    await world.enrol(await regiond.offer())
    state = world.directory / "region-0"
    assert not [path for path in state.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    rows = await regiond.region.reads._pool.query("SELECT private_key FROM authority")
    assert len(rows) == 1 and "PRIVATE KEY" in rows[0][0]
    world.secrets.append(rows[0][0].splitlines()[2])


def join(world: World, offer: EnrolmentOffer, token: str) -> Any:
    """The program that the printed command starts, in a process of its own, with the token on standard input."""
    config = world.directory / "clusterd.toml"
    config.write_text(f'state_directory = "{world.directory / "joined"}"\n')
    command = [
        sys.executable,
        "-m",
        "clusterd",
        "join",
        offer.address,
        offer.fingerprint,
        "--config",
        str(config),
    ]
    return deferToThread(
        lambda: subprocess.run(
            command, input=f"{token}\n", capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
        )
    )


@pytest_twisted.ensureDeferred
async def test_the_printed_command_makes_the_host_a_cluster(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    assert (offer.command or "").endswith(f" | python3 -m clusterd join {offer.address} {offer.fingerprint}")
    done = await join(world, offer, token_of(offer))
    assert done.returncode == 0, done.stderr
    file = IdentityFile(world.directory / "joined" / "identity" / "identity.json")
    assert done.stdout.startswith(f"This host is the cluster rack-7 ({file.load().cluster}) of region ")
    await world.register(file)
    # Once more, with another region's door open: nothing here changes.
    before = file.path.read_text()
    await regiond.offer("rack-8")
    other = EnrolmentOffer(offer.enrolment, regiond.region.enrolment.address or "", offer.fingerprint)
    again = await join(world, other, token_of(offer))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.strip() == f"the region at {other.address} refuses: the token is unknown, used or expired"
    assert token_of(offer).split("_", 2)[2] not in again.stderr + done.stdout + done.stderr
    assert file.path.read_text() == before


@pytest_twisted.ensureDeferred
async def test_joining_tells_what_is_wrong_with_the_command(world: World) -> None:
    regiond = await world.start()
    offer = await regiond.offer()
    empty = await join(world, offer, "")
    assert (empty.returncode, empty.stderr.strip()) == (1, "no token on standard input")
    wrong = EnrolmentOffer(offer.enrolment, "unix:/x", "md5:abc")
    mistaken = await join(world, wrong, "t")
    assert mistaken.returncode == 2 and "expected tcp:HOST:PORT" in mistaken.stderr
    assert await regiond.region.is_enrolling()


def test_an_identity_that_others_can_read_or_that_is_damaged_is_not_used(tmp_path: Path) -> None:
    file = IdentityFile(tmp_path / "identity.json")
    with pytest.raises(IdentityUnusable, match="regionctl clusters enrol"):
        file.load()
    file.path.write_text('{"private_key": "s3cret"}')
    file.path.chmod(0o644)
    with pytest.raises(IdentityUnusable, match="chmod 600"):
        file.load()
    file.path.chmod(0o600)
    with pytest.raises(IdentityUnusable, match="damaged") as caught:
        file.load()
    assert "s3cret" not in str(caught.value) and caught.value.__cause__ is None
