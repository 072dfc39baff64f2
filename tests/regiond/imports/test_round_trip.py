"""What is exported, lost and imported is what it was."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import Claim, NewDevice
from regiond.domain.reservations import Kind, Reservation
from regiond.storage.reservation_filter import ReservationFilter
from tests.regiond.imports.desk import Desk, desk
from tests.regiond.storage.region import new_id

_texts = st.one_of(
    st.none(),
    st.sampled_from(["=1+1", "'quoted", " spaced ", 'a, "b"; c', "two\nlines", "tab\there", "-", "ünï", "'", "@x"]),
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=40),
).filter(lambda text: text is None or text.isprintable() or set(text) & {"\n", "\t"})
_hostnames = st.one_of(st.none(), st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True))
_moments = st.one_of(
    st.none(),
    st.timedeltas(timedelta(days=1), timedelta(days=400)).map(lambda delta: datetime(2030, 1, 1, tzinfo=UTC) + delta),
)
_lines = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(list(Kind)),
        "subnet": st.integers(0, 2),
        "hostname": _hostnames,
        "comment": _texts,
        "purpose": _texts,
        "expires_at": _moments,
        "macs": st.integers(1, 3),
        "by": st.sampled_from(["mac", "other", "alias"]),
        "owner": st.booleans(),
        "label": st.one_of(st.none(), st.integers(0, 1)),
    }
)


def _claims(at: Desk, lines: Sequence[dict[str, Any]], alice: int, node: int) -> list[Claim]:
    """One claim for each line, with identifiers of its own; devices and groups by label."""
    devices: dict[Any, int] = {}
    claims = []
    for number, line in enumerate(lines, start=1):
        kind, six = line["kind"], line["subnet"] == 2
        owner = (
            (alice, "alice") if line["owner"] or kind is Kind.NODE else (at.region.owner, f"tester-{at.region.owner}")
        )
        macs = tuple(Identifier.mac(f"00:16:3e:{number:02x}:00:{index:02x}") for index in range(line["macs"]))
        other = Identifier(IdentifierKind.DUID if six else IdentifierKind.CLIENT_ID, bytes([0, 3, number, 7]))
        claim: dict[str, Any] = {"hostname": line["hostname"], "comment": line["comment"]}
        if kind is Kind.USER:
            label = line["label"]
            group = None if label is None else devices.setdefault(("group", owner, label), new_id())
            claim |= {"purpose": line["purpose"], "expires_at": line["expires_at"], "group": group}
            claim["mac"] = macs[0].text if line["by"] == "mac" else None
        elif kind is Kind.NODE:
            claim |= {"node": node, "identifiers": (macs[0] if line["by"] == "mac" else other,)}
            claim["alias"] = f"eth0:{number}" if line["by"] == "alias" else None
        else:
            claim["identifiers"] = macs if line["by"] == "mac" else (*macs, other)
            if kind is Kind.DEVICE:
                key = ("device", owner, line["label"] if line["label"] is not None else -number)
                is_new = key not in devices
                device = devices.setdefault(key, new_id())
                claim["device"] = NewDevice(device, line["hostname"], line["comment"]) if is_new else device
        claims.append(Claim(new_id(), kind, at.subnets[line["subnet"]], *owner, **claim))
    return claims


def _same(held: Reservation) -> tuple[Any, ...]:
    return (
        *(held.kind, held.status, held.address, held.cidr, held.vrf, held.owner_name, frozenset(held.macs)),
        *(held.client_id, held.duid, held.alias, held.hostname, held.node, held.purpose, held.comment),
        held.expires_at,
    )


async def _state(at: Desk) -> tuple[set[tuple[Any, ...]], set[frozenset[str]]]:
    """The reservations, and which of them belong together as a device or a group."""
    held = [view.reservation for view in await at.region.reads.reservations(ReservationFilter())]
    together: dict[Any, set[str]] = {}
    for one in held:
        for key in (("device", one.device), ("group", one.group)):
            if key[1] is not None:
                together.setdefault(key, set()).add(one.address)
    return {_same(one) for one in held}, {frozenset(each) for each in together.values()}


async def _wiped(at: Desk) -> None:
    await at.region.pool.execute(
        """DELETE FROM host_map; DELETE FROM reservation; DELETE FROM device; DELETE FROM reservation_count;
           UPDATE subnet SET digest = 0; SELECT rebuild_free_ranges(id) FROM subnet"""
    )


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(lines=st.lists(_lines, min_size=1, max_size=8), form=st.sampled_from(list(LineFormat)))
@pytest_twisted.ensureDeferred
async def test_an_import_brings_back_what_was_exported(database: str, lines: Any, form: LineFormat) -> None:
    async with desk(database) as at:
        await at.region.pool.execute("DELETE FROM import; DELETE FROM node; DELETE FROM account WHERE name = 'alice'")
        alice = await at.account("alice")
        node = new_id()
        await at.region.pool.execute(
            "INSERT INTO node (id, hostname, owner) VALUES (%s, 'node1', %s)", (node, alice.caller.account)
        )
        try:
            for claim in _claims(at, lines, alice.caller.account, node):
                await at.region.do(claim)
            before = await _state(at)
            file = await at.export(form)
            unchanged = await at.send(file, apply=True, form=form)
            assert (unchanged.mistakes, unchanged.created, unchanged.present) == ((), 0, len(lines))
            await _wiped(at)
            view = await at.send(file, apply=True, form=form)
            assert (view.state, view.mistakes, view.created) == (ImportState.DONE, (), len(lines))
            assert await _state(at) == before
            assert await at.is_sound()
        finally:
            await _wiped(at)


@pytest_twisted.ensureDeferred
async def test_what_was_being_released_does_not_come_back(database: str) -> None:
    async with desk(database) as at:
        (held,) = (
            await at.region.do(at.region.device(at.subnets[0], Identifier.mac("00:16:3e:00:00:01")))
        ).reservations
        (resting,) = (await at.region.release(held)).reservations
        assert resting.status == "releasing"
        file = await at.export(LineFormat.CSV)
        await _wiped(at)
        view = await at.send(file, apply=True)
        assert (view.state, view.skipped, view.created) == (ImportState.DONE, 1, 0)
        assert await at.count() == 0
