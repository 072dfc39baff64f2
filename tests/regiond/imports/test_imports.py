"""What an import says and does: dry first, all or nothing, every bad line, the same file again."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.storage.imports import Counts, Job
from regiond.storage.reservation_filter import ReservationFilter
from tests.regiond.imports.desk import desk
from tests.regiond.storage.region import new_id

reactor: Any = global_reactor

SHEET = """\ufeffIP address;MAC;Name;Notes
192.0.2.7;00-16-3E-00-00-01;Web1;the first one
192.0.2.8;;printer;
10.1.2.3;00:16:3e:00:00:02 00:16:3e:00:00:03;bond1;two NICs
"""


@pytest_twisted.ensureDeferred
async def test_a_spreadsheet_is_said_first_and_done_then(database: str) -> None:
    async with desk(database) as at:
        dry = await at.send(SHEET)
        assert (dry.state, dry.dry_run, dry.checked, dry.created) == (ImportState.DONE, True, 3, 3)
        assert await at.count() == 0 and at.committed == []
        done = await at.send(SHEET, apply=True)
        assert (done.state, done.created, done.applied, done.mistakes) == (ImportState.DONE, 3, 3, ())
        views = {
            view.reservation.address: view.reservation
            for view in await at.region.reads.reservations(ReservationFilter())
        }
        assert {address: (held.kind, held.hostname) for address, held in views.items()} == {
            "192.0.2.7": ("device", "web1"),
            "192.0.2.8": ("user", "printer"),
            "10.1.2.3": ("device", "bond1"),
        }
        assert views["10.1.2.3"].macs == ("00:16:3e:00:00:02", "00:16:3e:00:00:03")
        assert views["192.0.2.7"].comment == "the first one"
        assert at.committed == [frozenset({at.subnets[0], at.subnets[1]})]
        again = await at.send(SHEET, apply=True)
        assert (again.state, again.created, again.present) == (ImportState.DONE, 0, 3)
        assert await at.is_sound()
        rows = await at.region.pool.query("SELECT action, count(*) FROM audit GROUP BY action")
        assert dict(rows) == {"reservation.claim": 3, "import.apply": 2}


@pytest_twisted.ensureDeferred
async def test_a_network_of_two_vrfs_is_told_with_what_names_one(database: str) -> None:
    async with desk(database) as at:
        await at.region.pool.execute("INSERT INTO vrf (id, name) VALUES (7, 'blue')")
        await at.region.pool.execute(
            """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)
               SELECT 8, 7, cidr, first_usable, last_usable FROM subnet WHERE id = %s""",
            (at.subnets[0],),
        )
        (mistake,) = (await at.send("address\n192.0.2.7\n")).mistakes
        assert (mistake.column, mistake.slug) == ("address", "ambiguous-selector")
        assert "(192.0.2.0/24 in blue, 192.0.2.0/24 in default)" in mistake.detail
        assert "columns subnet or vrf" in mistake.detail
        assert (await at.send("address,vrf\n192.0.2.7,default\n")).mistakes == ()


@pytest_twisted.ensureDeferred
async def test_every_bad_line_is_told_and_nothing_is_done(database: str) -> None:
    async with desk(database) as at:
        await at.region.do(at.region.user(at.subnets[0], address="192.0.2.40", hostname="there"))
        await at.region.do(at.region.device(at.subnets[0], Identifier.mac("00:16:3e:00:00:40"), address="192.0.2.41"))
        await at.region.pool.execute(
            """INSERT INTO address_range (id, subnet, low, high, kind)
               VALUES (1, %s, '192.0.2.100', '192.0.2.120', 'dynamic')""",
            (at.subnets[0],),
        )
        lines = [
            "address,subnet,macs,hostname,kind,owner,node,purpose,device,expires_at",
            "192.0.2.7,,00:16:3e:00:00:01,,,,,,,",
            "not an address,,,,,,,,,",
            "192.0.2.300,,zz,a b,nothing,,,,,",
            ",,,nameless,,,,,,",
            "203.0.113.1,,,,,,,,,",
            "192.0.2.9,203.0.113.0/24,,,,,,,,",
            "192.0.2.10,,,,,nobody,,,,",
            "192.0.2.40,,,other,,,,,,",
            "192.0.2.42,,00:16:3e:00:00:40,,,,,,,",
            "192.0.2.101,,,,,,,,,",
            "192.0.2.7,,,,user,,,,,",
            "192.0.2.11,,00:16:3e:00:00:01,,,,,,,",
            "192.0.2.12,,,,device,,,,,",
            "192.0.2.13,,,,node,,nowhere,,,",
            "192.0.2.14,,00:16:3e:00:00:14,,device,,,why,,",
            "192.0.2.15,10.0.0.0/8,,,,,,,,",
            "192.0.2.255,,,,,,,,,",
            "192.0.2.16,,,,user,,,,box,",
            "192.0.2.17,,,,user,,,,,soon",
        ]
        view = await at.send("\n".join(lines), apply=True)
        assert view.state is ImportState.REFUSED
        told = {(each.line, each.column, each.slug) for each in view.mistakes}
        assert told == {
            (3, "address", "invalid-request"),
            (4, "address", "invalid-request"),
            (4, "macs", "invalid-request"),
            (4, "hostname", "invalid-request"),
            (4, "kind", "invalid-request"),
            (5, "address", "invalid-request"),
            (6, "address", "no-such-cluster-interface"),
            (7, "subnet", "no-such-cluster-interface"),
            (8, "owner", "not-found"),
            (9, "address", "address-taken"),
            (10, None, "identifier-taken"),
            (11, None, "address-in-dynamic-range"),
            (12, "address", "address-taken"),
            (13, "macs", "identifier-taken"),
            (14, "macs", "invalid-request"),
            (15, "node", "not-found"),
            (16, "purpose", "invalid-request"),
            (17, None, "address-outside-subnet"),
            (18, None, "address-not-usable"),
            (19, "device", "invalid-request"),
            (20, "expires_at", "invalid-request"),
        }
        assert view.mistake_count == len(view.mistakes) == 21
        assert view.created == 1  # what would have been made
        assert await at.count() == 2 and at.committed == []
        (taken,) = [each.detail for each in view.mistakes if each.line == 9]
        assert "with another hostname" in taken


@pytest_twisted.ensureDeferred
async def test_who_is_no_admin_reserves_for_itself(database: str) -> None:
    async with desk(database) as at:
        alice = await at.account("alice", most=2)
        await at.region.do(at.region.user(at.subnets[0], address="192.0.2.9", purpose="a secret"))
        view = await at.send("address,mac\n192.0.2.7,00:16:3e:00:00:01\n", apply=True, context=alice)
        assert (view.state, view.account_name) == (ImportState.DONE, "alice")
        lines = "address,kind,owner,mac\n192.0.2.8,device,,00:16:3e:00:00:02\n192.0.2.10,,root,\n192.0.2.9,,,\n"
        view = await at.send(lines, apply=True, context=alice)
        assert [(each.line, each.slug) for each in view.mistakes] == [
            (2, "not-permitted"),
            (3, "not-permitted"),
            (4, "address-taken"),
        ]
        assert view.mistakes[2].detail == "192.0.2.9 is taken"
        for apply in (False, True):
            view = await at.send("address\n192.0.2.20\n192.0.2.21\n", apply=apply, context=alice)
            assert [(each.line, each.slug) for each in view.mistakes] == [(None, "quota-exceeded")]
        assert await at.count() == 2
        assert await at.imports.read_list(alice, limit=10, after=None) != []
        theirs = await at.send("address\n10.0.0.1\n")
        with pytest.raises(errors.NotFound):
            await at.imports.read(alice, format_id(Prefix.IMPORT, theirs.id))
        assert (await at.imports.read(at.context(), format_id(Prefix.IMPORT, view.id))).state is ImportState.REFUSED


@pytest_twisted.ensureDeferred
async def test_devices_groups_and_nodes_hang_together(database: str) -> None:
    async with desk(database) as at:
        node = new_id()
        alice = await at.account("alice")
        await at.region.pool.execute(
            "INSERT INTO node (id, hostname, owner) VALUES (%s, 'node1', %s)", (node, alice.caller.account)
        )
        lines = """address,macs,device,node,alias,group,duid
192.0.2.7,00:16:3e:00:00:01,box,,,,
2001:db8::7,,box,,,,00:03:00:01:00:16:3e:00:00:01
192.0.2.8,00:16:3e:00:00:02,other,,,,
192.0.2.9,,,node1,eth0:1,,
10.0.0.9,00:16:3e:00:00:03,,node1,,,
10.1.0.1,,,,,lb,
10.1.0.2,,,,,lb,
"""
        view = await at.send(lines, apply=True)
        assert (view.state, view.mistakes, view.created) == (ImportState.DONE, (), 7)
        held = {v.reservation.address: v.reservation for v in await at.region.reads.reservations(ReservationFilter())}
        assert held["192.0.2.7"].device == held["2001:db8::7"].device != held["192.0.2.8"].device
        assert held["192.0.2.9"].node == held["10.0.0.9"].node == node
        assert {held["192.0.2.9"].owner_name, held["10.0.0.9"].owner_name} == {"alice"}
        assert held["192.0.2.9"].client_id == (b"\0hostmap:" + f"{format_id(Prefix.NODE, node)}:eth0:1".encode()).hex(
            ":"
        )
        assert held["10.1.0.1"].group == held["10.1.0.2"].group is not None
        assert (await at.send(lines, apply=True)).present == 7
        assert len(await at.region.reads.devices()) == 2
        existing = format_id(Prefix.DEVICE, held["192.0.2.8"].device or 0)
        view = await at.send(f"address,mac,device\n10.0.0.10,00:16:3e:00:00:09,{existing}\n")
        assert [(each.line, each.column) for each in view.mistakes] == [(2, "device")]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("new_first", [False, True])
async def test_a_file_that_grew_adds_nothing_to_a_device_that_is_there(database: str, new_first: bool) -> None:
    async with desk(database) as at:
        there = "192.0.2.7,00:16:3e:00:00:01,box"
        news = "192.0.2.8,00:16:3e:00:00:02,box"
        assert (await at.send(f"address,mac,device\n{there}\n", apply=True)).created == 1
        lines = [news, there] if new_first else [there, news]
        for apply in (False, True):
            view = await at.send("\n".join(["address,mac,device", *lines]), apply=apply)
            assert [(each.line, each.column) for each in view.mistakes] == [(2 if new_first else 3, "device")]
            assert (view.state, view.present, view.created) == (ImportState.REFUSED, 1, 0)
        assert await at.count() == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("column", ["group", "device"])
async def test_what_is_given_back_together_is_no_more_than_is_reserved_together(database: str, column: str) -> None:
    async with desk(database) as at:
        lines = [
            f"10.1.{n // 200}.{n % 200 + 1},{'' if column == 'group' else f'00163e00{n:04x}'},lb" for n in range(257)
        ]
        view = await at.send("\n".join([f"address,mac,{column}", *lines]))
        assert [(each.line, each.column) for each in view.mistakes] == [(258, column)]
        assert (await at.send("\n".join([f"address,mac,{column}", *lines[:256]]))).mistakes == ()


@pytest_twisted.ensureDeferred
async def test_what_somebody_else_makes_while_it_is_looked_at_is_not_made_and_not_hung_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(database) as at:
        tell = at.store.tell

        async def when_all_was_looked_at(job: Job, state: ImportState, counts: Counts) -> None:
            if state is ImportState.APPLYING and not counts.applied:
                same = at.region.device(at.subnets[0], Identifier.mac("00:16:3e:00:00:01"), address="192.0.2.7")
                await at.region.do(same)
            await tell(job, state, counts)

        monkeypatch.setattr(at.store, "tell", when_all_was_looked_at)
        lines = "address,mac,device\n192.0.2.7,00:16:3e:00:00:01,box\n192.0.2.8,00:16:3e:00:00:02,box\n"
        view = await at.send(lines, apply=True)
        assert (view.state, [each.line for each in view.mistakes]) == (ImportState.REFUSED, [2])
        assert await at.count() == 1


@pytest_twisted.ensureDeferred
async def test_a_key_has_one_import_and_an_account_only_some_at_a_time(database: str) -> None:
    async with desk(database) as at:
        first = await at.send("address\n192.0.2.7\n", apply=True, context=at.context(key="k"))
        again = await at.send("address\n192.0.2.7\n", apply=True, context=at.context(key="k"))
        assert first.id == again.id and again.created == 1
        with pytest.raises(errors.IdempotencyKeyReused):
            await at.send("address\n192.0.2.8\n", context=at.context(key="k", fingerprint="g"))
        await at.worker.stop()
        for _ in range(4):
            view = await at.send("address\n192.0.2.8\n", context=at.context(wait=0))
            assert view.state is ImportState.WAITING
        with pytest.raises(errors.TooManyImports):
            await at.send("address\n192.0.2.8\n", context=at.context(wait=0))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("form", "content", "told"),
    [
        (LineFormat.CSV, "", [(None, "there is no line")]),
        (LineFormat.CSV, "address\n", [(None, "there is no line")]),
        (
            LineFormat.CSV,
            "192.0.2.7,web1\n",
            [(1, "there is no column '192.0.2.7'"), (1, "'web1'"), (1, "name the columns")],
        ),
        (LineFormat.CSV, "address,rack\n192.0.2.7,7\n", [(1, "there is no column 'rack'")]),
        (LineFormat.CSV, "address\n192.0.2.7,surplus\n", [(2, "without a name")]),
        (LineFormat.CSV, 'address\n192.0.2.7\n"192.0.2.8\n', [(3, "no CSV")]),
        (LineFormat.JSONL, '{"address":"192.0.2.7"}\n{"address":\n[]\n', [(2, "no JSON"), (3, "JSON object")]),
        (LineFormat.JSONL, '{"address":7,"rack":"x"}\n', [(1, "a text or null"), (1, "'rack'")]),
        (LineFormat.JSONL, '{"address":"192.0.2.7","address":"192.0.2.8"}', [(1, "twice")]),
    ],
)
async def test_files_that_are_none(
    database: str, form: LineFormat, content: str, told: list[tuple[int | None, str]]
) -> None:
    async with desk(database) as at:
        view = await at.send(content, form=form)
        assert view.state is ImportState.REFUSED
        for mistake, (line, words) in zip(view.mistakes, told, strict=False):
            assert mistake.line == line and words in mistake.detail
        assert len(view.mistakes) == len(told)


@pytest_twisted.ensureDeferred
async def test_what_can_be_passed_over_and_what_is_too_much(database: str) -> None:
    async with desk(database) as at:
        view = await at.send("address,Rack unit\n192.0.2.7,U7\n", ignored=["rack-unit"])
        assert (view.state, view.created) == (ImportState.DONE, 1)
        lines = "address\n" + "".join(f"10.1.{n // 250}.{n % 250 + 1}\n" for n in range(10_001))
        view = await at.send(lines)
        assert [(each.line, "at most 10000 lines" in each.detail) for each in view.mistakes] == [(10_002, True)]
        for content in (b"address\n192.0.2.7\n\xff\n", b"address\n192.0.2.7\n\0\n"):
            with pytest.raises(errors.InvalidRequest, match="line 3"):
                await at.send(content)
        many = "address\n" + "nonsense\n" * 1500
        view = await at.send(many)
        assert (view.mistake_count, len(view.mistakes)) == (1500, 1000)
