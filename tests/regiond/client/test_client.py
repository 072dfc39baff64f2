"""The client against the API on real sockets: typed answers and errors, pages, files, repeated requests, TLS."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.protocol import Factory, Protocol

from clusterd.daemon.mutual_tls import TlsConnections
from regiond.client import answers
from regiond.client.answers import back_off
from regiond.client.api import Client
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.http.tls import ServerCertificate
from regiond.storage.errors import DatabaseUnavailable
from tests import certificates
from tests.fakes.use_cases import DEVICE_VIEW, IMPORT_VIEW, RELEASING_VIEW, RESERVATION, RESERVATION_VIEW
from tests.regiond.http.serving import Server, serving
from tests.waiting import until

reactor: Any = global_reactor
ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def client_of(server: Server, token: str = "admin", **options: Any) -> AsyncIterator[Client]:
    async with Client(reactor, f"http://127.0.0.1:{server.port}", token=token, **options) as client:
        yield client
    await until(lambda: not server.site.connections)


@pytest_twisted.ensureDeferred
async def test_the_three_operations_and_what_they_send() -> None:
    async with serving() as server, client_of(server) as client:
        device = await client.claim_device("192.0.2.0/24", mac="00:16:3E:00:00:01", hostname="web1", wait=0.5)
        assert device["reservations"][0]["address"] == "192.0.2.7"
        held = await client.claim_node_address("nd-0000000004", "rack-a:eth1", alias="eth0:1", probe=False)
        assert held["host_map"] is not None
        assert (await client.reserve("192.0.2.0/24", purpose="a test", probe=True))["owner"] == "alice"
        names = [name for name, _ in server.region.claims.calls]
        assert names == ["create_device", "claim_node_address", "reserve"]
        asked = server.region.claims.calls[0][1]
        assert (asked["context"].wait_seconds, asked["hostname"]) == (0.5, "web1")
        assert [call["context"].probe for _, call in server.region.claims.calls] == [None, False, True]
        keys = {arguments["context"].idempotency_key for _, arguments in server.region.claims.calls}
        assert None not in keys and len(keys) == 3
        assert (await client.device("dv-0000000006"))["id"] == device["id"]
        assert await client.node_address("nd-0000000004", held["id"]) == held
        assert await client.release_device("dv-0000000006") == []
        server.region.claims.answers["release_reservation"] = [RELEASING_VIEW]
        released = await client.release("rs-0000000007", force=True)
        assert released is not None and released["status"] == "releasing"
        assert server.region.claims.calls[-1][1]["force"] is True
        results = await client.batch([{"operation": "reserve", "interface": "192.0.2.0/24"}], probe=True)
        assert server.region.batches.calls[-1][1]["context"].probe is True
        assert [result["operation"] for result in results] == ["reserve"]


@pytest_twisted.ensureDeferred
async def test_changes_groups_and_nodes_that_go() -> None:
    async with serving() as server, client_of(server) as client:
        edits, claims = server.region.edits, server.region.claims
        device = await client.change_device("dv-0000000006", {"macs": ["00:16:3e:00:00:09"]}, etag='"x"', wait=0.5)
        assert device["id"] == "dv-0000000006"
        assert (await client.change_node("nd-0000000004", {"owner": "bob"}))["hostname"] == "node1"
        assert (await client.change_reservation("rs-0000000007", {"comment": None}))["id"] == "rs-0000000007"
        assert [name for name, _ in edits.calls] == ["change_device", "change_node", "change_reservation"]
        asked = edits.calls[0][1]
        assert (asked["changes"], asked["context"].wait_seconds) == ({"macs": ["00:16:3e:00:00:09"]}, 0.5)
        assert [call["context"].if_match for _, call in edits.calls] == [frozenset({'"x"'}), None, None]
        assert len({call["context"].idempotency_key for _, call in edits.calls}) == 3
        edits.answers["change_device"] = errors.StaleVersion("it was changed", etag='"y"')
        with pytest.raises(answers.StaleVersion) as stale:
            await client.change_device("dv-0000000006", {"comment": "c"}, etag='"x"')
        assert stale.value.members == {"etag": '"y"'}

        assert len((await client.group("gr-0000000011"))["reservations"]) == 1
        await client.release_group("gr-0000000011")
        claims.answers["delete_node"] = [RELEASING_VIEW]
        assert [held["status"] for held in await client.release_node("nd-0000000004", force=True)] == ["releasing"]
        assert [name for name, _ in claims.calls] == ["group", "release_group", "delete_node"]
        await client.claim_device("192.0.2.0/24", mac="00:16:3E:00:00:01", address="192.0.2.7", force=True)
        assert claims.calls[-1][1]["force"] is True


@pytest_twisted.ensureDeferred
async def test_over_the_socket_it_is_the_local_admin(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    async with serving(path=path) as server:
        async with Client(reactor, socket=path) as client:
            assert [node["hostname"] async for node in client.nodes()] == ["node1"]
        assert server.region.claims.calls[0][1]["context"].caller.name == "local"
        await until(lambda: not server.site.connections)


@pytest_twisted.ensureDeferred
async def test_a_list_is_read_page_after_page_and_only_as_far_as_it_is_wanted() -> None:
    async with serving() as server, client_of(server) as client:
        rows = [replace(RESERVATION_VIEW, reservation=replace(RESERVATION, id=number)) for number in range(1, 2502)]

        async def listed(**asked: Any) -> Any:
            number = 0 if asked["after"] is None else int(rows[0].reservation.id) * _number(asked["after"])
            return rows[number : number + asked["limit"]]

        server.region.claims.answers["list_reservations"] = listed
        seen = [held["id"] async for held in client.reservations(kind=["user", "device"], subnet="192.0.2.0/24")]
        assert seen == [format_id(Prefix.RESERVATION, view.reservation.id) for view in rows]
        asked = [arguments for _, arguments in server.region.claims.calls]
        assert len(asked) == 3
        assert {repr(each["filters"]) for each in asked} == {
            repr({"kind": ["user", "device"], "subnet": ["192.0.2.0/24"]})
        }
        async for _ in client.reservations():
            break
        assert len(server.region.claims.calls) == 4


def _number(text: str) -> int:
    return next(n for n in range(1, 2502) if format_id(Prefix.RESERVATION, n) == text)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("error", "kind", "member"),
    [
        (errors.AddressTaken("taken", holder=RESERVATION), answers.Conflict, "holder"),
        (errors.NotFound("nothing"), answers.NotFound, None),
        (errors.NotPermitted("no"), answers.NotPermitted, None),
        (errors.IdempotencyKeyReused("used"), answers.KeyReused, None),
        (errors.InvalidRequest("/mac", "none"), answers.Misunderstood, "errors"),
    ],
)
async def test_what_is_refused_is_raised_with_its_members(
    error: errors.DomainError, kind: type[answers.Refused], member: str | None
) -> None:
    async with serving() as server, client_of(server) as client:
        server.region.claims.answers["reserve"] = error
        with pytest.raises(kind) as caught:
            await client.reserve("192.0.2.0/24")
        refused: Any = caught.value
        assert (refused.type, refused.detail) == (error.slug, refused.problem["detail"])
        assert refused.request_id and (member is None or member in refused.members)
        assert len(server.region.claims.calls) == 1  # another attempt would have the same answer


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_and_no_server_are_said() -> None:
    async with serving() as server:
        async with client_of(server, token="wrong") as client:
            with pytest.raises(answers.Unauthenticated):
                await client.reservation("rs-0000000007")
        port = server.port
    async with Client(reactor, f"http://127.0.0.1:{port}", token="x", patience=0.3) as client:
        with pytest.raises(answers.Unreachable, match=f"no answer from http://127.0.0.1:{port}"):
            await client.reservation("rs-0000000007")


@pytest_twisted.ensureDeferred
async def test_what_may_go_better_is_tried_again_under_the_same_key() -> None:
    async with serving() as server, client_of(server) as client:
        failures: list[Exception] = [DatabaseUnavailable("away", outcome_unknown=True)]

        async def reserve(**asked: Any) -> Any:
            if failures:
                raise failures.pop()
            return [RESERVATION_VIEW], True

        server.region.claims.answers["reserve"] = reserve
        assert (await client.reserve("192.0.2.0/24", key="my-key"))["address"] == "192.0.2.7"
        assert [each["context"].idempotency_key for _, each in server.region.claims.calls] == ["my-key", "my-key"]
    async with serving() as server, client_of(server, patience=0.5) as client:
        server.region.claims.answers["reserve"] = DatabaseUnavailable("away", outcome_unknown=True)
        with pytest.raises(answers.Unavailable) as caught:
            await client.reserve("192.0.2.0/24")
        assert caught.value.outcome_unknown


class Cutting(Protocol):
    """Reads a request and hangs up, some times, or does what the API does."""

    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        factory.seen.append(data)
        assert self.transport is not None
        if len(factory.seen) <= factory.cuts:
            self.transport.abortConnection()  # type: ignore[attr-defined]
        else:
            body = b'{"id": "rs-0000000007"}'
            self.transport.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@asynccontextmanager
async def cutting(cuts: int) -> AsyncIterator[tuple[int, Any]]:
    factory: Any = Factory.forProtocol(Cutting)
    factory.cuts, factory.seen, factory.noisy = cuts, [], False
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        yield port.getHost().port, factory
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_cut_after_sending_is_repeated_with_its_key() -> None:
    async with cutting(2) as (port, factory):
        async with Client(reactor, f"http://127.0.0.1:{port}", token="x") as client:
            assert (await client.reserve("192.0.2.0/24"))["id"] == "rs-0000000007"
        keys = {match[1] for each in factory.seen if (match := re.search(rb"(?i)Idempotency-Key: (\S+)", each))}
        assert len(factory.seen) == 3 and len(keys) == 1
    async with (
        cutting(1000) as (port, factory),
        Client(reactor, f"http://127.0.0.1:{port}", token="x", patience=0.3) as client,
    ):
        with pytest.raises(answers.Unreachable, match="it may have been carried out"):
            await client.reserve("192.0.2.0/24")


def test_pauses_grow_to_a_bound_and_listen_to_the_region() -> None:
    pauses = [back_off(attempt, jitter=1.0) for attempt in range(1, 12)]
    assert pauses == sorted(pauses) and pauses[0] == 0.2 and pauses[-1] == 5.0
    refused = answers.refusal(503, {"retry-after": "7"}, {})
    assert back_off(1, refused, jitter=0.0) == 7.1
    assert not answers.can_be_repeated(answers.refusal(503, {}, {}))
    assert not answers.can_be_repeated(answers.refusal(409, {}, {}))


@pytest_twisted.ensureDeferred
async def test_files_come_and_go() -> None:
    async with serving() as server, client_of(server) as client:
        exported = b"".join([piece async for piece in client.export(LineFormat.CSV, kind="user")])
        assert exported == b"address\r\n192.0.2.7\r\n"
        assert server.region.exports.calls[0][1]["filters"] == {"kind": ["user"]}
        going = replace(IMPORT_VIEW, state=ImportState.CHECKING, finished=None)
        server.region.imports.answers["create"] = going
        told: list[Any] = []
        done = await client.import_file(exported, LineFormat.CSV, dry_run=False, ignore=["rack"], told=told.append)
        assert (done["state"], [each["state"] for each in told]) == ("refused", ["checking"])
        asked = server.region.imports.calls[0][1]
        assert (asked["content"], asked["dry_run"], asked["ignored"]) == (exported, False, ["rack"])
        with pytest.raises(answers.Misunderstood):
            await anext(client.export(LineFormat.CSV, colour="red"))


@pytest_twisted.ensureDeferred
async def test_an_export_comes_as_fast_as_it_is_taken_and_breaks_off_visibly() -> None:
    async with serving() as server, client_of(server) as client:
        made: list[int] = []
        ends = False

        async def export(**asked: Any) -> AsyncGenerator[bytes, None]:
            async def pieces() -> AsyncGenerator[bytes, None]:
                while not ends:
                    made.append(1)
                    yield b"x" * 262_144
                raise DatabaseUnavailable("gone")

            return pieces()

        server.region.exports.answers["export"] = export
        pieces = client.export(LineFormat.CSV)
        taken = len(await anext(pieces))
        await until(lambda: any(each.is_clogged for each in server.site.connections))
        stuck = len(made)
        assert stuck * 262_144 < 64 << 20
        while len(made) < stuck + 4:
            taken += len(await anext(pieces))
        ends = True
        with pytest.raises(answers.Unreachable):
            async for _ in pieces:
                pass


@pytest_twisted.ensureDeferred
async def test_what_is_applied_is_waited_for() -> None:
    async with serving() as server, client_of(server) as client:
        pending = DEVICE_VIEW.reservations[0]
        server.region.claims.answers["reservation"] = pending
        held = await client.applied("rs-0000000008", 0.1)
        assert held["host_map"] is not None and held["host_map"]["state"] == "pending"
        so_far = len(server.region.claims.calls)

        async def soon(**_: Any) -> Any:
            return pending if len(server.region.claims.calls) < so_far + 3 else RESERVATION_VIEW

        server.region.claims.answers["reservation"] = soon
        assert (await client.applied("rs-0000000007", 60.0))["host_map"] is None
        assert len(server.region.claims.calls) == so_far + 3


# ---- TLS ----


@asynccontextmanager
async def over_tls(
    directory: Path, names: list[x509.GeneralName] | None, *, trusted: bool = True
) -> AsyncIterator[tuple[str, str]]:
    """The URL of something that answers over TLS with a certificate of these names, and a file of authorities."""
    authority, other = certificates.authority(), certificates.authority(certificates.OTHER_REGION)
    shown = certificates.with_names(authority, names)
    pem = shown.certificate.public_bytes(serialization.Encoding.PEM)
    key = shown.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain, private = directory / "api.pem", directory / "api.key"
    chain.write_bytes(pem)
    private.touch(0o600)
    private.write_bytes(key)
    factory: Any = Factory.forProtocol(Cutting)
    factory.cuts, factory.seen, factory.noisy = 0, [], False
    connections = TlsConnections(ServerCertificate(chain, private).context)
    port: Any = await wrapServerTLS(connections, TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")).listen(factory)
    ca_file = directory / "ca.pem"
    believed = authority if trusted else other
    ca_file.write_bytes(believed.certificate.public_bytes(serialization.Encoding.PEM))
    try:
        yield f"https://127.0.0.1:{port.getHost().port}", str(ca_file)
    finally:
        await port.stopListening()


def _loopback() -> list[x509.GeneralName]:
    return [x509.IPAddress(IPv4Address("127.0.0.1"))]


@pytest_twisted.ensureDeferred
async def test_the_certificate_of_the_region_is_believed(tmp_path: Path) -> None:
    async with (
        over_tls(tmp_path, _loopback()) as (url, ca_file),
        Client(reactor, url, token="x", ca_file=ca_file) as client,
    ):
        assert (await client.reserve("192.0.2.0/24"))["id"] == "rs-0000000007"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("names", "trusted"),
    [
        (None, True),
        ([], True),
        ([x509.DNSName("127.0.0.1.example.org")], True),
        ("loopback", False),
        ("loopback", None),
    ],
)
async def test_every_other_certificate_is_not(tmp_path: Path, names: Any, trusted: bool | None) -> None:
    """Nothing is sent to it: the token least of all. With `trusted` None, the operating system decides."""
    shown = _loopback() if names == "loopback" else names
    async with over_tls(tmp_path, shown, trusted=bool(trusted)) as (url, ca_file):
        believed = None if trusted is None else ca_file
        async with Client(reactor, url, token="x", patience=0.1, ca_file=believed) as client:
            with pytest.raises(answers.Unreachable):
                await client.reserve("192.0.2.0/24")


# ---- the README ----


@pytest_twisted.ensureDeferred
async def test_the_example_of_the_readme_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "regiond/http/README.md").read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 15
    scope: dict[str, Any] = {}
    exec(compile(example, "README.md of the HTTP API", "exec"), scope)
    main: Callable[..., Any] = scope["main"]
    async with serving() as server:
        monkeypatch.setenv("TOKEN", "admin")
        await main(reactor, f"http://127.0.0.1:{server.port}")
        await until(lambda: not server.site.connections)
    assert capsys.readouterr().out.splitlines()[0] == "192.0.2.7 pending"
