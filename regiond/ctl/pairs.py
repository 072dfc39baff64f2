"""`regionctl subnets clusters`, `confirm-pair` and `unpair`: which clusters serve a subnet."""

from collections.abc import Iterable
from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import print_json, print_table
from regiond.ctl.ranges import SUBNET_HELP


@click.command("clusters", epilog=SUBNET_HELP)
@click.argument("subnet")
@json_option
@pass_settings
def clusters(settings: Settings, subnet: str) -> None:
    """List the clusters on a subnet: those that serve it, and those that could (shared-subnet)."""
    _print(settings, settings.client.get_all(clusters_path(subnet)))


@click.command("confirm-pair", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("cluster")
@json_option
@pass_settings
def confirm_pair(settings: Settings, subnet: str, cluster: str) -> None:
    """Say that CLUSTER is on the same wire as those that serve SUBNET, if any do: it gets its host maps, too.

    Both then answer the subnet's machines, and a released address is free when both have confirmed it. Never say so
    of two sites that only use the same network: move one of them to another VRF instead.
    """
    _print(settings, [settings.client.post(f"{clusters_path(subnet)}/{segment(cluster)}/confirm-pair", None).content])


@click.command("unpair", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("cluster")
@json_option
@pass_settings
def unpair(settings: Settings, subnet: str, cluster: str) -> None:
    """End that CLUSTER serves SUBNET beside others: its DHCP server forgets the subnet's host maps.

    It is draining until it has confirmed that; no address that it may still serve is freed before.
    """
    _print(settings, [settings.client.post(f"{clusters_path(subnet)}/{segment(cluster)}/unpair", None).content])


def clusters_path(subnet: str) -> str:
    return f"/subnets/{segment(subnet)}/clusters"


def waiting(subnet: str, found: Iterable[Any]) -> list[tuple[str, str]]:
    """What `subnets show` says of clusters that are on the subnet and do not serve it, or left it for another VRF."""
    left = [
        (
            "in another VRF",
            f"{each['name']} has this network in VRF {', '.join(each['other_vrfs'])}, and shares no host maps with "
            "this subnet; if it is the same wire, give it the same VRF ([topology.vrf] of its clusterd.toml, or "
            "regionctl clusters set --vrf)",
        )
        for each in found
        if each["other_vrfs"] and not each["nics"]
    ]
    return left + [
        (
            "not serving",
            f"{each['name']} ({', '.join(each['nics'])}) is on this network, too; if it is the same wire: "
            f"regionctl subnets confirm-pair {subnet} {each['name']}",
        )
        for each in found
        if each["role"] in ("shared-subnet", "unserved", "declined", "former") and each["nics"]
    ]


def _print(settings: Settings, found: list[Any]) -> None:
    if settings.as_json:
        print_json(found)
        return
    print_table(
        ("ID", "CLUSTER", "CONNECTED", "NICS", "ROLE", "APPLIED", "ERROR"),
        (
            [
                *(each["id"], each["name"], each["connected"], ",".join(each["nics"]), each["role"]),
                *(f"{each['applied_generation']}/{each['desired_generation']}", each["error"]),
            ]
            for each in sorted(found, key=lambda each: each["name"])
        ),
    )
