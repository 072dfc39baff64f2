"""`regionctl vrfs`, and what puts something into a VRF: `clusters set`, `subnets add` and `subnets remove`."""

from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import DURATION_OR_ZERO, Settings, given, json_option, pass_settings
from regiond.ctl.output import print_fields, print_json, print_table
from regiond.ctl.ranges import SUBNET_HELP


@click.group()
def vrfs() -> None:
    """Routing domains: the same network may be in each of them once.

    Two sites that both use 10.0.0.0/24 and have nothing to do with each other each need a VRF: `vrfs add site-2`, then
    `clusters set rack-of-site-2 --vrf site-2`. A single NIC is given a VRF in clusterd's configuration.
    """


@vrfs.command("list")
@json_option
@pass_settings
def list_vrfs(settings: Settings) -> None:
    """List VRFs, with the numbers of subnets in them and of clusters whose own they are."""
    found = settings.client.get_all("/vrfs")
    _print(settings, found, found)


@vrfs.command("add")
@click.argument("name")
@click.option("--comment", help="What it is for.")
@json_option
@pass_settings
def add(settings: Settings, name: str, comment: str | None) -> None:
    """Make a VRF. Its name stays for ever: clusters' configurations use it."""
    made = settings.client.post("/vrfs", given(name=name, comment=comment)).content
    _print(settings, made, [made])


@vrfs.command("set")
@click.argument("vrf", metavar="NAME")
@click.option("--comment", required=True, help='What it is for; "" takes the comment away.')
@json_option
@pass_settings
def change(settings: Settings, vrf: str, comment: str) -> None:
    """Change a VRF's comment."""
    changed = settings.client.patch(f"/vrfs/{segment(vrf)}", {"comment": comment or None}).content
    _print(settings, changed, [changed])


@vrfs.command("remove")
@click.argument("vrf", metavar="NAME")
@json_option
@pass_settings
def remove(settings: Settings, vrf: str) -> None:
    """Remove a VRF that no subnet is in and that is no cluster's own."""
    settings.client.delete(f"/vrfs/{segment(vrf)}")
    if not settings.as_json:
        click.echo(f"{vrf} is removed")


@click.command("add")
@click.argument("cidr")
@click.option("--vrf", metavar="NAME", help="The VRF that it is in; `default` by default.")
@click.option("--release-hold", type=DURATION_OR_ZERO, help="How long its released addresses rest, e.g. 15m.")
@json_option
@pass_settings
def add_subnet(settings: Settings, cidr: str, vrf: str | None, release_hold: int | None) -> None:
    """Make a subnet that no cluster has reported yet.

    Most come by themselves, when a cluster has a NIC on the network or a [[relay]] for it. Claims on this one are
    pending until one does. While the region recovers (regionctl recover) nothing can be claimed there before every
    cluster was heard: any of them may serve it already.
    """
    body = given(cidr=cidr, vrf=vrf, release_hold_seconds=release_hold)
    made = settings.client.post("/subnets", body).content
    if settings.as_json:
        print_json(made)
    else:
        print_fields([("id", made["id"]), ("network", made["cidr"]), ("vrf", made["vrf"])])


@click.command("remove", epilog=SUBNET_HELP)
@click.argument("subnet")
@json_option
@pass_settings
def remove_subnet(settings: Settings, subnet: str) -> None:
    """Remove a subnet on which nothing is reserved and no cluster is; not while it recovers (regionctl recover)."""
    settings.client.delete(f"/subnets/{segment(subnet)}")
    if not settings.as_json:
        click.echo(f"{subnet} is removed")


def _print(settings: Settings, content: Any, found: list[Any]) -> None:
    if settings.as_json:
        print_json(content)
        return
    print_table(
        ("ID", "NAME", "SUBNETS", "CLUSTERS", "COMMENT"),
        (
            [each["id"], each["name"], each["subnets"], each["clusters"], each["comment"]]
            for each in sorted(found, key=lambda each: each["name"])
        ),
    )
