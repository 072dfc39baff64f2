"""`regionctl subnets`."""

from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import DURATION_OR_ZERO, Settings, given, json_option, pass_settings
from regiond.ctl.output import print_fields, print_json, print_table
from regiond.ctl.pairs import clusters_path, waiting
from regiond.ctl.ranges import SUBNET_HELP


@click.group()
def subnets() -> None:
    """The networks that addresses are claimed from."""


@subnets.command("list")
@click.option("--vrf", multiple=True, metavar="NAME", help="Only those of this VRF.")
@json_option
@pass_settings
def list_subnets(settings: Settings, vrf: tuple[str, ...]) -> None:
    """List subnets, with who serves them and how many reservations they have."""
    found = [each for each in settings.client.get_all("/subnets") if not vrf or each["vrf"] in vrf]
    if settings.as_json:
        print_json(found)
        return
    ordered = sorted(found, key=lambda each: (each["vrf"], each["cidr"]))
    print_table(
        ("ID", "NETWORK", "VRF", "SERVED BY", "RESERVATIONS", "RELEASING", "GENERATION"),
        (
            [
                *(each["id"], each["cidr"], each["vrf"], ",".join(each["clusters"])),
                *(each["reservations"], each["releasing"], each["generation"]),
            ]
            for each in ordered
        ),
    )


@subnets.command("show", epilog=SUBNET_HELP)
@click.argument("subnet")
@json_option
@pass_settings
def show(settings: Settings, subnet: str) -> None:
    """Show a subnet: who serves it, how full it is, what is excluded, what is free."""
    path = f"/subnets/{segment(subnet)}"
    shown = settings.client.get(path).content
    path = f"/subnets/{shown['id']}"
    use = settings.client.get(f"{path}/utilisation").content
    ranges = settings.client.get_all(f"{path}/ranges")
    clusters = settings.client.get_all(clusters_path(shown["id"]))
    available = settings.client.get(f"{path}/available", [("limit", "1")]).content
    if settings.as_json:
        print_json({**shown, "utilisation": use, "ranges": ranges, "available": available, "clusters": clusters})
    else:
        lowest = ("lowest free", next(iter(available), None))
        print_fields([*_own(shown), *waiting(shown["id"], clusters), *_use(use), *_ranges(ranges), lowest])


@subnets.command("set", epilog=SUBNET_HELP)
@click.argument("subnet")
@click.option(
    "--release-hold",
    type=DURATION_OR_ZERO,
    help="How long an address rests after its removal was confirmed everywhere, e.g. 15m; 0 for not at all.",
)
@click.option(
    "--claimable-anyway/--claimable-when-reported",
    "claimable_anyway",
    default=None,
    help="Claim addresses although a cluster has not told what its DHCP server has of its own; or wait for that.",
)
@click.option(
    "--probe/--no-probe",
    "probe",
    default=None,
    help="Find out on the wire that nobody uses an address before it is handed out, unless a claim says otherwise.",
)
@click.option(
    "--claimants",
    metavar="WHO",
    help="Who may claim addresses: everyone, admins, or beside admins these accounts, e.g. alice,bob.",
)
@json_option
@pass_settings
def set_subnet(
    settings: Settings,
    subnet: str,
    release_hold: int | None,
    claimable_anyway: bool | None,
    probe: bool | None,
    claimants: str | None,
) -> None:
    """Set how long a subnet's released addresses rest, when and by whom they are claimable, and whether probed."""
    who = claimants if claimants in (None, "everyone", "admins") else claimants.split(",")
    body = given(release_hold_seconds=release_hold, claimable_anyway=claimable_anyway, probe=probe, claimants=who)
    if not body:
        wanted = "--release-hold, --claimable-anyway, --probe or --claimants"
        raise click.UsageError(f"say what to set: {wanted}", click.get_current_context())
    changed = settings.client.patch(f"/subnets/{segment(subnet)}", body).content
    if settings.as_json:
        print_json(changed)
    else:
        print_fields(_own(changed))


def _own(shown: Any) -> list[tuple[str, Any]]:
    return [
        ("id", shown["id"]),
        ("network", shown["cidr"]),
        ("vrf", shown["vrf"]),
        ("served by", ", ".join(shown["clusters"])),
        ("generation", shown["generation"]),
        ("release hold", f"{shown['release_hold_seconds']} s"),
        ("claimants", who if isinstance(who := shown["claimants"], str) else f"admins, {', '.join(who)}"),
        ("probed", "yes" if shown["probe"] else "on request"),
        ("claimable", _claimable(shown)),
    ]


def _claimable(shown: Any) -> str:
    if shown["recovering"]:
        return "not before its clusters were heard: regionctl recover"
    return "yes" if shown["claimable"] else f"not before {', '.join(shown['awaits'])} has reported"


def _use(use: Any) -> list[tuple[str, Any]]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in use["reserved"].items() if kind != "total")
    excluded = ", ".join(f"{count} {kind}" for kind, count in use["in_ranges"].items())
    return [
        ("usable", use["usable"]),
        ("reserved", f"{use['reserved']['total']} ({kinds})"),
        ("releasing", use["releasing"]),
        ("in ranges", excluded),
        ("infrastructure", use["infrastructure"]),
        ("static entries", use["static_entries"]),
        ("in use", f"{use['in_use']} (without a reservation: regionctl in-use list)" if use["in_use"] else 0),
        ("free", use["free"]),
    ]


def _ranges(ranges: list[Any]) -> list[tuple[str, Any]]:
    return [(f"{each['kind']} range", f"{each['low']} to {each['high']} ({_origin(each)})") for each in ranges]


def _origin(each: Any) -> str:
    return each["id"] if each["reported_by"] is None else f"reported by cluster {each['reported_by']}"
