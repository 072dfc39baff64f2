"""`regionctl ranges`."""

import ipaddress
from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.output import print_json, print_table

SUBNET_HELP = "SUBNET is a network, an sn-… id or any selector that means one subnet."

_KIND = click.Choice(["dynamic", "reserved"])
_FORCE = (
    "Take a dynamic range although reservations lie in it: they stay, and their addresses are not handed out again."
)


@click.group()
def ranges() -> None:
    """Addresses of a subnet that are never allocated: the DHCP server's own pools, or kept back."""


@ranges.command("list", epilog=SUBNET_HELP)
@click.argument("subnet")
@json_option
@pass_settings
def list_ranges(settings: Settings, subnet: str) -> None:
    """List the ranges of a subnet."""
    _print(settings, settings.client.get_all(_path(subnet)))


@ranges.command("add", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("low")
@click.argument("high")
@click.option("--kind", type=_KIND, required=True, help="dynamic: the DHCP server leases them; reserved: kept back.")
@click.option("--comment", metavar="TEXT", help="What it is for.")
@click.option("--force", is_flag=True, help=_FORCE)
@json_option
@pass_settings
def add(settings: Settings, subnet: str, low: str, high: str, kind: str, comment: str | None, force: bool) -> None:
    """Exclude the addresses from LOW to HIGH, both included, from now on."""
    body = given(kind=kind, low=low, high=high, comment=comment)
    made = settings.client.post(_path(subnet), body, _forced(force)).content
    _print(settings, made)


@ranges.command("change", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("range_id", metavar="RANGE")
@click.option("--kind", type=_KIND, help="Its new kind.")
@click.option("--low", metavar="ADDRESS", help="Its new first address.")
@click.option("--high", metavar="ADDRESS", help="Its new last address.")
@click.option("--comment", metavar="TEXT", help="Its new comment; an empty one takes it away.")
@click.option("--force", is_flag=True, help=_FORCE)
@json_option
@pass_settings
def change(
    settings: Settings, /, subnet: str, range_id: str, comment: str | None, force: bool, **more: str | None
) -> None:
    """Change a range, by its rg-… id. What is not given stays."""
    body: dict[str, Any] = given(**more)
    if comment is not None:
        body["comment"] = comment or None
    if not body:
        raise click.UsageError("say what to change", click.get_current_context())
    path = f"{_path(subnet)}/{segment(range_id)}"
    _print(settings, settings.client.patch(path, body, _forced(force)).content)


@ranges.command("remove", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.argument("range_ids", metavar="RANGE...", nargs=-1, required=True)
@json_option
@pass_settings
def remove(settings: Settings, subnet: str, range_ids: tuple[str, ...]) -> None:
    """Give the addresses of ranges back to be claimed, by their rg-… ids."""
    for range_id in range_ids:
        settings.client.delete(f"{_path(subnet)}/{segment(range_id)}")
        if not settings.as_json:
            click.echo(f"{range_id} is removed")


def _path(subnet: str) -> str:
    return f"/subnets/{segment(subnet)}/ranges"


def _forced(force: bool) -> list[tuple[str, str]]:
    return [("force", "true")] if force else []


def _print(settings: Settings, found: Any) -> None:
    if settings.as_json:
        print_json(found)
        return
    rows = found if isinstance(found, list) else [found]
    print_table(
        ("ID", "KIND", "LOW", "HIGH", "REPORTED BY", "COMMENT"),
        (
            [each["id"], each["kind"], each["low"], each["high"], each["reported_by"], each["comment"]]
            for each in _by_address(rows)
        ),
    )


def _by_address(rows: list[Any]) -> list[Any]:
    """The lowest first, of the one family that a subnet has."""
    return sorted(rows, key=lambda each: int(ipaddress.ip_address(each["low"])))
