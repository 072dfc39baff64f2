"""`regionctl nodes`: machines that get extra addresses; those are in `node_addresses`."""

from collections.abc import Mapping
from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.claiming import force_release, print_released
from regiond.ctl.claiming import release as release_at
from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.node_addresses import addresses, print_addresses
from regiond.ctl.output import print_fields, print_json, print_table

_COLUMNS: Final = ("ID", "HOSTNAME", "MACS", "OWNER", "CREATED", "COMMENT")


@click.group()
def nodes() -> None:
    """Machines that get extra addresses, for other NICs of theirs or aliases of these.

    An address of a node: regionctl nodes addresses claim NODE --interface 192.0.2.0/24 --alias eth0:1
    """


@nodes.command("list")
@json_option
@pass_settings
def list_nodes(settings: Settings) -> None:
    """List nodes: a user's own, an admin's all."""
    found = settings.client.get_all("/nodes")
    if settings.as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, ([*_cells(each)] for each in found))


@nodes.command("show")
@click.argument("node", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, node: str) -> None:
    """Show a node with its extra addresses."""
    path = f"/nodes/{segment(node)}"
    shown = settings.client.get(path).content
    held = settings.client.get_all(f"{path}/addresses")
    if settings.as_json:
        print_json({**shown, "addresses": held})
        return
    _print(shown)
    if held:
        click.echo()
        print_addresses(held)


@nodes.command("add")
@click.argument("hostname")
@click.option("--mac", "macs", metavar="MAC", multiple=True, help="A MAC address of its own; as often as it has NICs.")
@click.option("--owner", metavar="NAME", help="Whose it is, who may claim addresses for it; yours by default.")
@click.option("--comment", metavar="TEXT", help="Anything else, e.g. where it is.")
@json_option
@pass_settings
def add(settings: Settings, hostname: str, macs: tuple[str, ...], owner: str | None, comment: str | None) -> None:
    """Make a node (admin), which addresses can then be claimed for: regionctl nodes addresses claim."""
    made = settings.client.post(
        "/nodes", given(hostname=hostname, macs=list(macs) or None, owner=owner, comment=comment)
    ).content
    if settings.as_json:
        print_json(made)
    else:
        print_table(_COLUMNS, [_cells(made)])


@nodes.command("set")
@click.argument("node", metavar="ID")
@click.option("--hostname", metavar="NAME", help="Another host name.")
@click.option("--owner", metavar="NAME", help="Whose it is from now on.")
@click.option("--comment", metavar="TEXT", help='Anything else; "" takes the comment away.')
@click.option("--mac", "macs", metavar="MAC", multiple=True, help="Its own MAC addresses from now on, all of them.")
@click.option(
    "--replaced-mac",
    "replaced",
    nargs=2,
    metavar="OLD NEW",
    multiple=True,
    help="A NIC that was replaced: the node and its extra addresses get the new MAC address.",
)
@json_option
@pass_settings
def change(
    settings: Settings,
    node: str,
    hostname: str | None,
    owner: str | None,
    comment: str | None,
    macs: tuple[str, ...],
    replaced: tuple[tuple[str, str], ...],
) -> None:
    """Change a node (admin), as after a NIC was replaced: it keeps its addresses."""
    pairs = [{"old": old, "new": new} for old, new in replaced]
    body = given(hostname=hostname, owner=owner, comment=comment, macs=list(macs) or None, replaced_macs=pairs or None)
    if not body:
        wanted = "--hostname, --owner, --comment, --mac or --replaced-mac"
        raise click.UsageError(f"say what to change: {wanted}", click.get_current_context())
    body.update({"comment": None} if comment == "" else {})
    changed = settings.client.patch(f"/nodes/{segment(node)}", body).content
    if settings.as_json:
        print_json(changed)
    else:
        _print(changed)


@nodes.command("remove")
@click.argument("node_ids", metavar="ID...", nargs=-1, required=True)
@force_release
@json_option
@pass_settings
def remove(settings: Settings, node_ids: tuple[str, ...], force: bool) -> None:
    """Give nodes up, with all their extra addresses (admin). What clusters still have to confirm is told."""
    for node in node_ids:
        reply = release_at(settings, f"/nodes/{segment(node)}", force)
        print_released(settings, reply, node, "is gone, and its addresses are free")


nodes.add_command(addresses)


def _print(node: Mapping[str, Any]) -> None:
    fields = [(name, node[name]) for name in ("id", "hostname", "owner", "comment", "created")]
    print_fields([*fields, *(("mac", mac) for mac in node["macs"])])


def _cells(node: Mapping[str, Any]) -> list[Any]:
    return [
        *(node["id"], node["hostname"], ",".join(node["macs"])),
        *(node["owner"], node["created"], node["comment"]),
    ]
