"""`regionctl reservations`."""

from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.claiming import claim_options, claim_query, force_release, print_released
from regiond.ctl.claiming import release as release_at
from regiond.ctl.command import DURATION, Settings, given, json_option, pass_settings
from regiond.ctl.output import (
    RESERVATION_COLUMNS,
    print_fields,
    print_json,
    print_table,
    progress_fields,
    reservation_rows,
)
from regiond.domain.reservations import Kind

_TOLD = (
    *("id", "address", "kind", "status", "owner", "client_id", "duid", "alias", "hostname", "device", "node", "group"),
    *("purpose", "comment", "created", "expires_at", "free_at", "probed"),
)


@click.group()
def reservations() -> None:
    """Addresses that are taken, and by whom."""


@reservations.command("list")
@click.option("--subnet", multiple=True, metavar="SELECTOR", help="On this subnet: a network, cluster:nic or id.")
@click.option("--kind", multiple=True, type=click.Choice([kind.value for kind in Kind]), help="Of this kind.")
@click.option("--status", multiple=True, type=click.Choice(["active", "releasing"]), help="In this state.")
@click.option("--mac", multiple=True, metavar="MAC", help="With this MAC address.")
@click.option("--address", multiple=True, metavar="ADDRESS", help="This address.")
@json_option
@pass_settings
def list_reservations(
    settings: Settings,
    subnet: tuple[str, ...],
    kind: tuple[str, ...],
    status: tuple[str, ...],
    mac: tuple[str, ...],
    address: tuple[str, ...],
) -> None:
    """List reservations. An option given more than once means any of its values."""
    chosen = {"subnet": subnet, "kind": kind, "status": status, "mac": mac, "address": address}
    query = [(name, value) for name, values in chosen.items() for value in values]
    found = settings.client.get_all("/reservations", query)
    if settings.as_json:
        print_json(found)
    else:
        print_table(RESERVATION_COLUMNS, reservation_rows(found))


@reservations.command("show")
@click.argument("reservation_id", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, reservation_id: str) -> None:
    """Show a reservation: whose it is, how far its host maps are, and what a release waits for and what ends that."""
    found = settings.client.get(f"/reservations/{segment(reservation_id)}").content
    if settings.as_json:
        print_json(found)
        return
    told = [(name.replace("_", " "), found[name]) for name in _TOLD if found[name] not in (None, "", [])]
    told[2:2] = [("subnet", f"{found['subnet']['cidr']} in {found['subnet']['vrf']} ({found['subnet']['id']})")]
    told += [("mac", mac) for mac in found["macs"]]
    print_fields([*told, *progress_fields(found)])


@reservations.command("claim")
@click.option("--interface", metavar="SELECTOR", help="Where: 192.0.2.0/24, rack-a:eth1, ci-… or terms like vlan:12.")
@click.option("--address", metavar="ADDRESS", help="This very address; the lowest free one by default.")
@click.option("--count", type=click.IntRange(1, 256), help="So many addresses, all or none.")
@click.option("--mac", metavar="MAC", help="A MAC address to remember with it.")
@click.option("--hostname", metavar="NAME", help="A host name to remember with it.")
@click.option("--purpose", metavar="TEXT", help="What it is for.")
@click.option("--comment", metavar="TEXT", help="Anything else.")
@click.option("--user", metavar="NAME", help="For this account (admin).")
@click.option("--expires-in", type=DURATION, help="Give it back by itself after this time, e.g. 12h.")
@claim_options
@json_option
@pass_settings
def claim(
    settings: Settings,
    /,
    interface: str | None,
    address: str | None,
    wait: float | None,
    probe: bool | None,
    force: bool,
    **more: Any,
) -> None:
    """Reserve addresses for yourself: the region hands them to nobody else, and no DHCP server answers with them."""
    if interface is None and address is None:
        raise click.UsageError("say where with --interface, or which with --address", click.get_current_context())
    body = given(interface=interface, address=address, **more)
    made = settings.client.post("/reservations", body, claim_query(wait, force, probe), wait or 0.0).content
    if settings.as_json:
        print_json(made)
    else:
        print_table(RESERVATION_COLUMNS, reservation_rows(made.get("reservations", [made])))


@reservations.command("release")
@click.argument("reservation_ids", metavar="ID...", nargs=-1, required=True)
@force_release
@json_option
@pass_settings
def release(settings: Settings, reservation_ids: tuple[str, ...], force: bool) -> None:
    """Give user reservations back, by their rs-… ids; or all that were reserved together, by their gr-… id."""
    for reservation_id in reservation_ids:
        if reservation_id.startswith("gr-"):
            if force:
                raise click.UsageError("what was reserved together is free at once: leave out --force")
            settings.client.delete(f"/groups/{segment(reservation_id)}")
            if not settings.as_json:
                click.echo(f"all of {reservation_id} are free")
            continue
        reply = release_at(settings, f"/reservations/{segment(reservation_id)}", force)
        print_released(settings, reply, reservation_id, "is free")
