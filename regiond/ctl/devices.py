"""`regionctl devices`: machines that are nobody's to install, with an address and a host map."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.claiming import claim_options, claim_query, force_release, print_released
from regiond.ctl.claiming import release as release_at
from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.output import client_of, map_state, print_fields, print_json, print_table, progress_fields

_COLUMNS: Final = (*("ID", "ADDRESS", "STATUS", "HOST MAP", "CLIENT", "HOSTNAME", "OWNER", "SUBNET", "RESERVATION"),)


@click.group()
def devices() -> None:
    """Unmanaged devices: each with its address, which the DHCP servers of the network answer it with."""


@devices.command("list")
@json_option
@pass_settings
def list_devices(settings: Settings) -> None:
    """List devices, with a line for each address: a user's own, an admin's all."""
    found = settings.client.get_all("/devices")
    if settings.as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, _rows(found))


@devices.command("show")
@click.argument("device", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, device: str) -> None:
    """Show a device: its addresses, how far their host maps are on each cluster, and what a release waits for."""
    found = settings.client.get(f"/devices/{segment(device)}").content
    if settings.as_json:
        print_json(found)
    else:
        _print(found)


@devices.command("claim")
@click.option(
    "--interface",
    metavar="SELECTOR",
    required=True,
    help="Where: 192.0.2.0/24, rack-a:eth1, ci-… or terms like vlan:12.",
)
@click.option("--mac", "macs", metavar="MAC", multiple=True, help="Its MAC address; several for a bond.")
@click.option("--duid", metavar="DUID", help="What it calls itself over DHCPv6, e.g. 00:03:00:01:00:16:3e:00:00:01.")
@click.option("--address", metavar="ADDRESS", help="This very address; the lowest free one by default.")
@click.option("--hostname", metavar="NAME", help="A host name that the DHCP server tells it.")
@click.option("--owner", metavar="NAME", help="Whose it is; yours by default.")
@click.option("--comment", metavar="TEXT", help="Anything else.")
@claim_options
@json_option
@pass_settings
def claim(
    settings: Settings,
    /,
    interface: str,
    macs: tuple[str, ...],
    duid: str | None,
    wait: float | None,
    force: bool,
    probe: bool | None,
    **more: Any,
) -> None:
    """Claim an address for a device (admin): the DHCP servers of the network answer it with that.

    The same claim again is the same device, not another one.
    """
    if not macs and duid is None:
        raise click.UsageError("say who it is, with --mac or --duid", click.get_current_context())
    body = given(interface=interface, macs=list(macs) or None, duid=duid, **more)
    made = settings.client.post("/devices", body, claim_query(wait, force, probe), wait or 0.0).content
    if settings.as_json:
        print_json(made)
    else:
        print_table(_COLUMNS, _rows([made]))


@devices.command("set")
@click.argument("device", metavar="ID")
@click.option("--mac", "macs", metavar="MAC", multiple=True, help="Its MAC address from now on; several for a bond.")
@click.option("--hostname", metavar="NAME", help='Another host name; "" takes it away.')
@click.option("--owner", metavar="NAME", help="Whose it is from now on.")
@click.option("--comment", metavar="TEXT", help='Anything else; "" takes the comment away.')
@json_option
@pass_settings
def change(
    settings: Settings,
    device: str,
    macs: tuple[str, ...],
    hostname: str | None,
    owner: str | None,
    comment: str | None,
) -> None:
    """Change a device (admin), as after a NIC was replaced: it keeps its addresses."""
    body = given(macs=list(macs) or None, hostname=hostname, owner=owner, comment=comment)
    if not body:
        wanted = "--mac, --hostname, --owner or --comment"
        raise click.UsageError(f"say what to change: {wanted}", click.get_current_context())
    body.update({name: None for name in ("hostname", "comment") if body.get(name) == ""})
    changed = settings.client.patch(f"/devices/{segment(device)}", body).content
    if settings.as_json:
        print_json(changed)
    else:
        _print(changed)


@devices.command("release")
@click.argument("device_ids", metavar="ID...", nargs=-1, required=True)
@force_release
@json_option
@pass_settings
def release(settings: Settings, device_ids: tuple[str, ...], force: bool) -> None:
    """Give devices up, with everything they have (admin). What clusters still have to confirm is told."""
    for device in device_ids:
        reply = release_at(settings, f"/devices/{segment(device)}", force)
        print_released(settings, reply, device, "is gone, and its addresses are free")


def _print(device: Mapping[str, Any]) -> None:
    fields = [(name, device[name]) for name in ("id", "hostname", "owner", "comment", "created")]
    fields += [("mac", mac) for mac in device["macs"]]
    for each in device["reservations"]:
        subnet = f"{each['subnet']['cidr']} in {each['subnet']['vrf']}"
        fields.append(("address", f"{each['address']} on {subnet} ({each['id']}), {each['status']}"))
        fields += [("duid", each["duid"])] if each["duid"] else []
        fields += progress_fields(each)
    print_fields(fields)


def _rows(devices: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[Any]]:
    for device in devices:
        about = (device["hostname"], device["owner"])
        for each in device["reservations"]:
            where = (each["address"], each["status"], map_state(each), client_of(each))
            yield (device["id"], *where, *about, each["subnet"]["cidr"], each["id"])
        if not device["reservations"]:
            yield (device["id"], None, None, None, ",".join(device["macs"]), *about, None, None)
