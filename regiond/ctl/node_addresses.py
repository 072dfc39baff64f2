"""`regionctl nodes addresses`: extra addresses of a node, for another NIC of it or an alias of one."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.claiming import claim_options, claim_query, force_release, print_released
from regiond.ctl.claiming import release as release_at
from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.output import client_of, map_state, print_json, print_table

_COLUMNS: Final = ("ID", "ADDRESS", "STATUS", "HOST MAP", "HOSTNAME", "SUBNET", "ALIAS", "CLIENT")


@click.group()
def addresses() -> None:
    """Extra addresses of a node, each with a host map of its own."""


@addresses.command("list")
@click.argument("node")
@json_option
@pass_settings
def list_addresses(settings: Settings, node: str) -> None:
    """List a node's extra addresses. How far one is: regionctl reservations show ID."""
    found = settings.client.get_all(_path(node))
    if settings.as_json:
        print_json(found)
    else:
        print_addresses(found)


@addresses.command("claim")
@click.argument("node")
@click.option(
    "--interface",
    metavar="SELECTOR",
    required=True,
    help="Where: 192.0.2.0/24, rack-a:eth1, ci-… or terms like vlan:12.",
)
@click.option("--mac", metavar="MAC", help="For another NIC of the node, with this MAC address.")
@click.option(
    "--alias",
    metavar="NAME",
    help="For an alias of a NIC, e.g. eth0:1. Alone, it makes the client-id that is printed: the DHCP client of the "
    "alias has to send it.",
)
@click.option("--client-id", metavar="HEX", help="For whoever sends this DHCP client-id, e.g. 01:00:16:3e:00:00:01.")
@click.option("--duid", metavar="DUID", help="For whoever calls itself this over DHCPv6.")
@click.option("--address", metavar="ADDRESS", help="This very address; the lowest free one by default.")
@click.option("--hostname", metavar="NAME", help="A host name that the DHCP server tells it.")
@claim_options
@json_option
@pass_settings
def claim(
    settings: Settings,
    /,
    node: str,
    wait: float | None,
    force: bool,
    probe: bool | None,
    **more: Any,
) -> None:
    """Claim an extra address for a node: its owner may, and an admin."""
    if not any(more[name] for name in ("mac", "alias", "client_id", "duid")):
        wanted = "--mac, --alias, --client-id or --duid"
        raise click.UsageError(f"say whom it is for, with {wanted}", click.get_current_context())
    query = claim_query(wait, force, probe)
    made = settings.client.post(_path(node), given(**more), query, wait or 0.0).content
    if settings.as_json:
        print_json(made)
    else:
        print_addresses([made])


@addresses.command("release")
@click.argument("node")
@click.argument("reservation_ids", metavar="ID...", nargs=-1, required=True)
@force_release
@json_option
@pass_settings
def release(settings: Settings, node: str, reservation_ids: tuple[str, ...], force: bool) -> None:
    """Give extra addresses of a node back, by their rs-… ids."""
    for reservation in reservation_ids:
        reply = release_at(settings, f"{_path(node)}/{segment(reservation)}", force)
        print_released(settings, reply, reservation, "is free")


def print_addresses(reservations: Iterable[Mapping[str, Any]]) -> None:
    """A line for each."""
    print_table(
        _COLUMNS,
        (
            [
                *(each["id"], each["address"], each["status"], map_state(each), each["hostname"]),
                *(each["subnet"]["cidr"], each["alias"], client_of(each)),
            ]
            for each in reservations
        ),
    )


def _path(node: str) -> str:
    return f"/nodes/{segment(node)}/addresses"
