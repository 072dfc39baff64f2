"""`regionctl in-use`."""

import ipaddress
from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import print_json, print_table
from regiond.ctl.ranges import SUBNET_HELP


@click.group("in-use")
def in_use() -> None:
    """Addresses that somebody on the wire uses without a reservation, as probes found out."""


@in_use.command("list", epilog=SUBNET_HELP)
@click.argument("subnet")
@json_option
@pass_settings
def list_marks(settings: Settings, subnet: str) -> None:
    """List the addresses of a subnet that are kept from being handed out because somebody uses them."""
    found = settings.client.get_all(_path(subnet))
    if settings.as_json:
        print_json(found)
        return
    print_table(
        ("ID", "ADDRESS", "MAC", "SEEN BY", "SINCE", "LAST SEEN", "EXPIRES"),
        (
            [
                *(each["id"], each["address"], each["mac"], each["cluster"], each["since"], each["seen_at"]),
                each["expires_at"],
            ]
            for each in _by_address(found)
        ),
    )


@in_use.command("clear", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("addresses", metavar="ADDRESS...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are listed.")
@json_option
@pass_settings
def clear(settings: Settings, subnet: str, addresses: tuple[str, ...], everything: bool) -> None:
    """Let addresses be handed out again, since nobody uses them any more."""
    if bool(addresses) == everything:
        raise click.UsageError("name addresses, or say --all", click.get_current_context())
    marks = {each["address"]: each for each in _by_address(settings.client.get_all(_path(subnet)))}
    wanted = list(marks) if everything else [_canonical(address) for address in addresses]
    if missing := [address for address in wanted if address not in marks]:
        raise click.UsageError(f"not marked as in use: {', '.join(missing)}", click.get_current_context())
    for address in wanted:
        settings.client.delete(f"{_path(subnet)}/{marks[address]['id']}")
        if not settings.as_json:
            click.echo(f"{address} can be handed out again")


def _path(subnet: str) -> str:
    return f"/subnets/{segment(subnet)}/in-use"


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as error:
        raise click.UsageError(f"not an IP address: {address}", click.get_current_context()) from error


def _by_address(marks: list[Any]) -> list[Any]:
    return sorted(marks, key=lambda each: int(ipaddress.ip_address(each["address"])))
