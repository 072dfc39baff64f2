"""`regionctl leases`."""

from typing import Any

import click

from regiond.client.answers import MAX_PAGE, segment
from regiond.ctl.command import EXIT_REFUSED, Settings, json_option, pass_settings
from regiond.ctl.output import plain, print_json, print_table
from regiond.ctl.ranges import SUBNET_HELP

_COLUMNS = ("ADDRESS", "CLIENT", "HOSTNAME", "EXPIRES", "RESERVATION", "CLUSTER")


@click.command(epilog=SUBNET_HELP)
@click.argument("subnet")
@click.option("--address", multiple=True, metavar="ADDRESS", help="Only this address.")
@click.option("--mac", multiple=True, metavar="MAC", help="Only of the client with this MAC address.")
@json_option
@pass_settings
def leases(settings: Settings, subnet: str, address: tuple[str, ...], mac: tuple[str, ...]) -> None:
    """List the leases that the DHCP servers of a subnet have given, from pools or by host maps, as they are now.

    The clusters are asked for them. Exit code 1 when one of these could not be: the list is then not complete.
    """
    wanted = [("address", each) for each in address] + [("mac", each) for each in mac]
    found = _all(settings, f"/subnets/{segment(subnet)}/leases", wanted)
    if settings.as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, (_row(each) for each in found["leases"]))
    silent = [cluster for cluster in found["clusters"] if not cluster["complete"]]
    for cluster in silent:
        click.echo(f"not from cluster {cluster['name']}: {plain(cluster['error'])}", err=True)
    if silent:
        raise SystemExit(EXIT_REFUSED)


def _all(settings: Settings, path: str, wanted: list[tuple[str, str]]) -> Any:
    """Every page, as one; a cluster that is missing from one of them is missing."""
    query = [*wanted, ("limit", str(MAX_PAGE))]
    reply = settings.client.get(path, query)
    whole = reply.content
    while reply.next_page is not None:
        reply = settings.client.get(path, [*query, ("after", whole["leases"][-1]["address"])])
        whole["leases"] += reply.content["leases"]
        whole["complete"] = whole["complete"] and reply.content["complete"]
        errors = {cluster["id"]: cluster for cluster in reply.content["clusters"] if not cluster["complete"]}
        whole["clusters"] = [errors.get(cluster["id"], cluster) for cluster in whole["clusters"]]
    return whole


def _row(lease: Any) -> tuple[Any, ...]:
    client = lease["mac"] or lease["client_id"] or lease["duid"]
    return (
        lease["address"],
        client,
        lease["hostname"],
        lease["expires_at"] or "never",
        lease["reservation"],
        lease["cluster"]["name"],
    )
