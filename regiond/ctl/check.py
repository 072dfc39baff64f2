"""`regionctl check`."""

import time
from collections.abc import Iterable
from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.command import EXIT_REFUSED, Settings, json_option, pass_settings
from regiond.ctl.output import plain, print_json
from regiond.ctl.ranges import SUBNET_HELP

PROGRESS_SECONDS: Final = 2.0
LONGEST_CHECK_SECONDS: Final = 600.0


@click.command("check", epilog=SUBNET_HELP)
@click.argument("chosen", metavar="[SUBNET]...", nargs=-1)
@click.option(
    "--repair",
    metavar="SUBNET",
    multiple=True,
    help="Rebuild this subnet's index of free addresses before its check.",
)
@json_option
@pass_settings
def check(settings: Settings, chosen: tuple[str, ...], repair: tuple[str, ...]) -> None:
    """Does what the region stores contradict itself?

    Looks at all subnets, or at those named: reservations, releasing addresses, ranges, infrastructure and free
    addresses have to tile each exactly; host maps, digests and counts have to agree with the reservations. Claims go
    on meanwhile. One line for each finding; exit code 1 when there is any.
    """
    reports = []
    for subnet in repair:
        reports.append(settings.client.post(f"{_path(subnet)}/repair", None, wait=LONGEST_CHECK_SECONDS).content)
        _show(settings, reports[-1])
    names = chosen or ([] if repair else [each["id"] for each in settings.client.get_all("/subnets")])
    for subnet in _with_progress(names):
        reports.append(settings.client.get(f"{_path(subnet)}/check", wait=LONGEST_CHECK_SECONDS).content)
        _show(settings, reports[-1])
    if settings.as_json:
        print_json(reports)
    found = sum(len(report["findings"]) for report in reports)
    click.echo(f"{len(reports)} subnets checked, {found} findings", err=True)
    if found:
        click.get_current_context().exit(EXIT_REFUSED)


def _path(subnet: str) -> str:
    return f"/subnets/{segment(subnet)}"


def _show(settings: Settings, report: Any) -> None:
    """As soon as it is there."""
    for finding in [] if settings.as_json else report["findings"]:
        where = report["subnet"]
        click.echo(f"{where['cidr']} in {where['vrf']}: {finding['kind']}: {plain(finding['detail'])}")


def _with_progress(subnets: Iterable[str]) -> Iterable[str]:
    names = list(subnets)
    told = time.monotonic()
    for done, name in enumerate(names):
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            click.echo(f"{done} of {len(names)} subnets checked", err=True)
        yield name
