"""regionctl against the HTTP API on real sockets: what it prints, its one-line errors, its exit codes."""

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import pytest_twisted
from click.testing import CliRunner, Result
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from regiond.client.answers import Unreachable, parse_url
from regiond.config import RegionSettings
from regiond.ctl.client import DEFAULT_SOCKET, Client, Target
from regiond.ctl.main import cli
from regiond.domain import errors
from regiond.domain.errors import Candidate
from regiond.storage.accounts import AccountStore
from regiond.storage.pool import Pool
from regiond.use_cases.accounts import Accounts
from tests.fakes.use_cases import CLUSTER_VIEW, RELEASING_VIEW, RESERVATION, RESERVATION_VIEW
from tests.regiond.http.serving import Server, serving

reactor: Any = global_reactor


async def run(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    """Run regionctl in a thread, while the reactor serves it."""
    clean = dict.fromkeys(("REGIOND_SOCKET", "REGIOND_URL", "REGIOND_TOKEN", "REGIOND_TOKEN_FILE"))
    result: Result = await deferToThread(CliRunner().invoke, cli, list(arguments), env={**clean, **(env or {})})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def over_tcp(server: Server, token: str = "admin") -> dict[str, str]:
    return {"REGIOND_URL": f"http://127.0.0.1:{server.port}", "REGIOND_TOKEN": token}


def check_one_line(result: Result, code: int, *says: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("regionctl: ") and result.stderr.count("\n") == 1
    assert result.stdout == ""
    for each in says:
        assert each in result.stderr


@pytest_twisted.ensureDeferred
async def test_over_the_socket_it_is_the_local_admin(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    async with serving(path=path) as server:
        for arguments, env in ((["--socket", path], {}), ([], {"REGIOND_SOCKET": path})):
            result = await run(*arguments, "accounts", "create", "alice", "--role", "admin", env=env)
            assert result.exit_code == 0, result.output
        calls = [call for call in server.region.accounts.calls if call[0] == "create_account"]
        assert [(call["context"].caller.name, call["name"], call["role"].value) for _, call in calls] == [
            ("local", "alice", "admin")
        ] * 2
        assert all(call["context"].idempotency_key for _, call in calls)


@pytest_twisted.ensureDeferred
async def test_accounts() -> None:
    async with serving() as server:
        listed = await run("accounts", "list", env=over_tcp(server))
        assert listed.stdout.splitlines() == [
            "ID             NAME   ROLE  DISABLED  RESERVATIONS  LIMIT  PER SUBNET  CREATED",
            "ac-0000000002  alice  user  no        0             -      -           2026-01-31T12:00:00.123Z",
        ]
        assert json.loads((await run("--json", "accounts", "list", env=over_tcp(server))).stdout)[0]["name"] == "alice"
        for change, disabled in (("disable", True), ("enable", False)):
            assert (await run("accounts", change, "alice", env=over_tcp(server))).exit_code == 0
            assert server.region.accounts.calls[-1][1]["changes"] == {"disabled": disabled}


@pytest_twisted.ensureDeferred
async def test_a_new_token_is_alone_on_stdout_and_nowhere_else() -> None:
    async with serving() as server:
        made = await run(
            "tokens", "create", "ci", "--account", "bob", "--read-only", "--expires-in", "2h", env=over_tcp(server)
        )
        assert made.stdout == "hm_the-secret\n"
        assert "hm_" not in made.stderr
        [(_, call)] = server.region.accounts.calls
        assert (call["account"], call["read_only"], call["expires_at"].hour) == ("bob", True, 14)
        as_json = await run("tokens", "create", "ci", "--json", env=over_tcp(server))
        assert json.loads(as_json.stdout)["token"] == "hm_the-secret"
        listed = await run("tokens", "list", "--account", "alice", env=over_tcp(server))
        assert "tk-000000000c  alice    laptop" in listed.stdout and "hm_" not in listed.stdout
        revoked = await run("tokens", "revoke", "tk-000000000c", env=over_tcp(server))
        assert revoked.stdout == "tk-000000000c is revoked\n"


@pytest_twisted.ensureDeferred
async def test_reservations_are_claimed() -> None:
    async with serving() as server:
        options = ["--interface", "rack-a:eth1", "--mac", "00163e000007", "--wait", "1.5", "--expires-in", "1d"]
        claimed = await run("reservations", "claim", *options, "--purpose", "a test", env=over_tcp(server))
        header, line = claimed.stdout.splitlines()
        assert header.split() == [
            "ID",
            "ADDRESS",
            "KIND",
            "STATUS",
            "HOST",
            "MAP",
            "CLIENT",
            "HOSTNAME",
            "OWNER",
            "SUBNET",
        ]
        assert line.split() == (
            ["rs-0000000007", "192.0.2.7", "user", "active", "-", "00:16:3e:00:00:07", "web1", "alice", "192.0.2.0/24"]
        )
        [(_, call)] = server.region.claims.calls
        assert (call["interface"], call["mac"], call["count"]) == ("rack-a:eth1", "00:16:3e:00:00:07", 1)
        assert call["context"].wait_seconds == 1.5 and call["expires_at"].day == 1
        views = [replace(RESERVATION_VIEW, reservation=replace(RESERVATION, id=n, group=3)) for n in (1, 2)]
        server.region.claims.answers["reserve"] = (views, True)
        several = await run("reservations", "claim", "--interface", "x:y", "--count", "2", env=over_tcp(server))
        assert [row.split()[0] for row in several.stdout.splitlines()[1:]] == ["rs-0000000001", "rs-0000000002"]


@pytest_twisted.ensureDeferred
async def test_a_list_of_many_pages_is_one_list() -> None:
    views = [replace(RESERVATION_VIEW, reservation=replace(RESERVATION, id=n)) for n in range(2500)]

    async def listed(*, limit: int, after: str | None, **_: Any) -> Any:
        start = 0 if after is None else [v.reservation.id for v in views].index(_number(after)) + 1
        return views[start : start + limit]

    async with serving() as server:
        server.region.claims.answers["list_reservations"] = listed
        filters = ["--kind", "user", "--kind", "node", "--subnet", "192.0.2.0/24", "--mac", "x", "--address", "y"]
        result = await run("reservations", "list", *filters, "--json", env=over_tcp(server))
        assert len({each["id"] for each in json.loads(result.stdout)}) == 2500
        assert len(server.region.claims.calls) == 3
        for _, call in server.region.claims.calls:
            assert call["filters"] == {
                "kind": ["user", "node"],
                "subnet": ["192.0.2.0/24"],
                "mac": ["x"],
                "address": ["y"],
            }


def _number(text: str) -> int:
    from regiond.domain.ids import Prefix, parse_id

    number = parse_id(Prefix.RESERVATION, text)
    assert number is not None
    return number


@pytest_twisted.ensureDeferred
async def test_releases() -> None:
    async with serving() as server:
        free = await run("reservations", "release", "rs-0000000007", "rs-0000000008", env=over_tcp(server))
        assert free.stdout == "rs-0000000007 is free\nrs-0000000008 is free\n"
        server.region.claims.answers["release_reservation"] = [RELEASING_VIEW]
        waiting = await run("reservations", "release", "rs-0000000008", "--force", env=over_tcp(server))
        assert waiting.stdout == "rs-0000000008 (192.0.2.7) is releasing: cluster rack-a has to confirm\n"
        assert [call["force"] for _, call in server.region.claims.calls] == [False, False, True]
        await run("reservations", "release", "../users", env=over_tcp(server))
        assert server.region.claims.calls[-1][1]["reservation_id"] == "../users"


@pytest_twisted.ensureDeferred
async def test_clusters() -> None:
    async with serving() as server:
        bare = replace(CLUSTER_VIEW, id=1, name="alone", connected=False, subnets=())
        noisy = replace(CLUSTER_VIEW.subnets[0], error="bad \x1b[31mline\n2")
        server.region.inventory.answers["clusters"] = [replace(CLUSTER_VIEW, subnets=(noisy,)), bare]
        result = await run("clusters", "list", env=over_tcp(server))
        _, first, second = result.stdout.splitlines()
        assert first.split() == ["cl-0000000001", "alone", "no", "dnsmasq", "-", "-", "-", "-"]
        assert second.split()[4:7] == ["192.0.2.0/24", "serving", "4/5"]
        assert second.endswith(r"bad \x1b[31mline\n2")


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_one_line_and_1() -> None:
    async with serving() as server:
        candidates = [
            Candidate("ci-1", "rack-a", "eth1", "192.0.2.0/24", "default"),
            Candidate("sn-1", None, None, "::/0", "b"),
        ]
        server.region.claims.answers["reserve"] = errors.AmbiguousSelector("two\nsubnets \x1b[31m", candidates)
        refused = await run("reservations", "claim", "--interface", "rack-a:eth1", env=over_tcp(server))
        check_one_line(
            refused,
            1,
            "ambiguous-selector: two subnets ?[31m",
            "ci-1 (rack-a:eth1 192.0.2.0/24 in default), sn-1 (::/0 in b)",
        )
        many = await run(
            "reservations", "claim", "--interface", "a:b", "--mac", "x", "--hostname", "_", env=over_tcp(server)
        )
        check_one_line(many, 1, "invalid-request: /mac: not a MAC", "; /hostname: ")
        check_one_line(await run("clusters", "list", env=over_tcp(server, "wrong")), 1, "unauthenticated: ")
        check_one_line(await run("accounts", "list", "--json", env=over_tcp(server, "alice")), 1, "not-permitted: ")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command"),
        (["clusters", "list", "extra"], "unexpected extra argument"),
        (["reservations", "claim"], "--interface"),
        (["reservations", "claim", "--interface", "x", "--count", "0"], "--count"),
        (["reservations", "claim", "--interface", "x", "--expires-in", "soon"], "no duration"),
        (["reservations", "release"], "Missing argument"),
        (["reservations", "list", "--kind", "lease"], "--kind"),
        (["--url", "ftp://x", "clusters", "list"], "needs a token"),
        (["--socket", "/a", "--url", "http://x", "clusters", "list"], "exclude"),
        (["--token-file", "/nonexistent", "clusters", "list"], "token file /nonexistent cannot be read: No such file"),
    ],
)
async def test_a_mistake_in_the_command_is_one_line_and_2(arguments: list[str], says: str) -> None:
    check_one_line(await run(*arguments), 2, says)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("group", sorted(name for name, each in cli.commands.items() if isinstance(each, click.Group)))
async def test_no_summary_in_a_list_of_commands_is_cut_off(group: str) -> None:
    for arguments in (["--help"], [group, "--help"]):
        listed = (await run(*arguments)).stdout.partition("Commands:")[2]
        assert listed.strip() and "..." not in listed


@pytest_twisted.ensureDeferred
async def test_the_version() -> None:
    assert (await run("--version")).stdout.partition(" ")[2] == version("hostmap") + "\n"


@pytest_twisted.ensureDeferred
async def test_no_region_is_one_line_and_3(tmp_path: Path) -> None:
    check_one_line(
        await run("--socket", str(tmp_path / "none"), "clusters", "list"),
        3,
        "cannot be reached: No such file",
        "does regiond run",
    )
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = {"REGIOND_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}", "REGIOND_TOKEN": "x"}
        check_one_line(await run("--timeout", "0.2", "clusters", "list", env=url), 3, "took too long")
        late = await run("--timeout", "0.2", "accounts", "create", "x", env=url)
        check_one_line(late, 3, "it may have been carried out")
    check_one_line(await run("clusters", "list", env=url), 3, "Connection refused")


@pytest_twisted.ensureDeferred
async def test_something_that_is_no_region(tmp_path: Path) -> None:
    def answer(listener: socket.socket, reply: bytes) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(reply)

    for reply, says in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ht>", "not JSON"),
        (b"SSH-2.0-x\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[]", "broke off"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            answering = deferToThread(answer, listener, reply)
            url = {"REGIOND_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "REGIOND_TOKEN": "x"}
            check_one_line(await run("clusters", "list", env=url), 3, says)
            await answering


@pytest_twisted.ensureDeferred
async def test_a_token_from_a_file_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("admin\n")
    async with serving() as server:
        url = f"http://127.0.0.1:{server.port}"
        for mode, warned in ((0o644, f"regionctl: everybody on this host may read the token in {path}: "), (0o600, "")):
            path.chmod(mode)
            done = await run("--url", url, "--token-file", str(path), "clusters", "list", "--json")
            assert (done.exit_code, done.stderr.partition("chmod 600")[0]) == (0, warned)
            assert json.loads(done.stdout)
        path.write_text("two secrets\n")
        bad = await run("--url", url, "--token-file", str(path), "clusters", "list")
        check_one_line(bad, 2, "does not hold a token")
        assert "secrets" not in bad.stderr
    assert "hm_x" not in repr(Target(url=url, token="hm_x"))


@pytest.mark.parametrize(
    "text", ["region", "http://", "http://a/b", "http://u@h", "http://h:x", "http://[::1", "http://a b"]
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|more than|[Pp]ort|IPv6"):
        parse_url(text)


def test_urls() -> None:
    assert parse_url("https://region.example:5240/") == "https://region.example:5240"
    assert parse_url("http://[::1]:5240") == "http://[::1]:5240"
    with pytest.raises(Unreachable):
        Client(Target(url="https://127.0.0.1:1", token="x", timeout=0.5)).get("/clusters")


def commands(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*before, name))
        if isinstance(command, click.Group):
            found += commands(command, *before, name)
    return found


@pytest.mark.parametrize("command", commands(cli), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ") and len(result.stdout.splitlines()[2].strip()) > 20
    at: click.Command = cli
    for name in command:
        assert isinstance(at, click.Group)
        at = at.commands[name]
    undocumented = [p.name for p in at.params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest_twisted.ensureDeferred
async def test_as_a_program_with_a_real_account_from_nothing_to_a_listing(database: str, tmp_path: Path) -> None:
    pool = Pool(reactor, database, 2)
    pool.start()
    path = str(tmp_path / "api.sock")
    accounts = Accounts(reactor, AccountStore(pool))

    async def regionctl(*arguments: str, **env: str) -> tuple[str, str, int]:
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            ["-c", "from regiond.ctl.main import main; main()", *arguments],
            env={**{k: v for k, v in os.environ.items() if not k.startswith("REGIOND_")}, **env},
        )
        return out.decode(), err.decode(), code

    try:
        async with serving(path=path, accounts=accounts), serving(accounts=accounts) as over_tcp:
            assert (await regionctl("--socket", path, "accounts", "create", "ann", "--role", "admin"))[2] == 0
            again = await regionctl("--socket", path, "accounts", "create", "ann")
            assert again == ("", "regionctl: name-taken: there is an account ann already\n", 1)
            token, shown, code = await regionctl("--socket", path, "tokens", "create", "t", "--account", "ann")
            assert code == 0 and token.strip() not in shown
            env = {"REGIOND_URL": f"http://127.0.0.1:{over_tcp.port}", "REGIOND_TOKEN": token}
            listed, _, code = await regionctl("accounts", "list", "--json", **env)
            assert {each["name"] for each in json.loads(listed)} == {"local", "ann"}
            own = await regionctl("tokens", "list", "--json", **env)
            [entry] = json.loads(own[0])
            assert (await regionctl("tokens", "revoke", entry["id"], **env))[2] == 0
            assert (await regionctl("accounts", "list", **env))[2] == 1
    finally:
        await pool.close()


def test_the_default_socket_is_where_an_unconfigured_region_listens() -> None:
    assert RegionSettings().api_socket.path == DEFAULT_SOCKET
