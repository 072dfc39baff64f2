"""`regionctl recover`."""

from collections.abc import Sequence
from typing import Any

import click

from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import print_fields, print_json, print_table
from regiond.domain.recovery import FindingKind

_CLUSTER = ("id", "name", "heard", "connected", "last_heard", "software_version")


@click.command()
@click.option("--begin", metavar="REASON", help="Begin a recovery, e.g. after a backup was restored; say why.")
@click.option("--end", is_flag=True, help="Wait for no more clusters, and go on with what the others have.")
@click.option("--force", is_flag=True, help="With --end: also when clusters that may serve addresses were not heard.")
@click.option("--without", metavar="NAME", multiple=True, help="Wait no more for this cluster, only for the others.")
@json_option
@pass_settings
def recover(settings: Settings, begin: str | None, end: bool, force: bool, without: tuple[str, ...]) -> None:
    """Show or steer the recovery after the region's database went back in time.

    The region notices by itself that a backup was restored or a failover lost commits, from its state directory or from
    clusters that know more than the database; where the state directory is lost, too, begin it by hand before clusters
    connect. Until every cluster that serves a subnet was heard, claims on that subnet are answered 503. Addresses that
    clusters serve and the region does not know become reservations of kind `recovered`.

    A cluster that does not come is waited for until it is forgotten (regionctl clusters forget), or until the recovery
    goes on without it: --without NAME, or --end --force without all that are missing. What such a cluster serves may
    then be given to somebody else; that it was given up is shown here and kept in the audit.
    """
    if begin is not None and (end or without):
        raise click.UsageError("--begin excludes --end and --without")
    if end and without:
        raise click.UsageError("--end waits for nobody any more: leave out --without")
    if force and not end:
        raise click.UsageError("--force goes with --end")
    if begin is not None:
        shown = settings.client.post("/recovery/begin", {"reason": begin}).content
    elif without:
        shown = settings.client.post("/recovery/end", {"without": list(without)}).content
    elif end:
        shown = settings.client.post("/recovery/end", {"force": force}).content
    else:
        shown = settings.client.get("/recovery").content
    if settings.as_json:
        print_json(shown)
    else:
        _print(shown)


def _print(shown: Any) -> None:
    recovering = shown["since"] is not None
    state = f"recovering since {shown['since']}" if recovering else "not recovering"
    findings = ", ".join(f"{count} {kind}" for kind, count in shown["counts"].items())
    print_fields([("state", state), ("reason", shown["reason"]), ("history", shown["history"]), ("findings", findings)])
    if shown["clusters"]:
        click.echo()
        print_table(
            ("CLUSTER", "NAME", "HEARD", "CONNECTED", "LAST HEARD OF", "VERSION"),
            ([each[name] for name in _CLUSTER] for each in shown["clusters"]),
        )
        _print_advice([each for each in shown["clusters"] if each["advice"]])
    if shown["subnets"]:
        click.echo("\nNothing can be claimed on these, nor is anything delivered, before who they wait for was heard:")
        print_table(
            ("SUBNET", "NETWORK", "VRF", "WAITS FOR"),
            ([each["id"], each["cidr"], each["vrf"], ",".join(each["waits_for"])] for each in shown["subnets"]),
        )
    _print_findings(shown)


def _print_advice(waited_for: Sequence[Any]) -> None:
    if waited_for:
        click.echo("\nNot heard yet:")
        for each in waited_for:
            click.echo(f"  {each['name']}: {each['advice']}")
        click.echo(
            "or go on without one (--without NAME) or without all of them (--end --force): what they serve and the "
            "region does not know may then be given to somebody else"
        )


def _print_findings(shown: Any) -> None:
    """What somebody has to look at, in full; of what is reserved again there may be thousands."""
    told = [each for each in shown["findings"] if each["kind"] != FindingKind.RECOVERED]
    if told:
        click.echo("\nWorth a look:")
        print_table(
            ("FINDING", "ADDRESS", "RESERVATION", "WHAT"),
            ([each["kind"], each["address"], each["reservation"], each["detail"]] for each in told),
        )
    recovered = shown["counts"].get(FindingKind.RECOVERED, 0)
    more = sum(shown["counts"].values()) - recovered - len(told)
    if more:
        click.echo(f"and {more} more, the earliest ones")
    if recovered:
        click.echo(f"\nReserved again: {recovered}, see regionctl reservations list --kind {FindingKind.RECOVERED}")
