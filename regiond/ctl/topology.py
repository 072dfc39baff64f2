"""`regionctl clusters topology`: what a cluster sees, and what became of it."""

from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import plain, print_fields, print_json, print_table

DEFAULT_CHANGES: Final = 50


@click.command("topology")
@click.argument("cluster")
@click.option("--history", is_flag=True, help="What happened to its interfaces instead, the newest first.")
@click.option("--nic", multiple=True, metavar="NAME", help="With --history: only of this NIC.")
@click.option("--change", multiple=True, metavar="CHANGE", help="With --history: only appeared, moved, vanished, …")
@click.option("--limit", type=click.IntRange(1), help=f"With --history: at most so many, {DEFAULT_CHANGES} by default.")
@json_option
@pass_settings
def topology(
    settings: Settings,
    cluster: str,
    history: bool,
    nic: tuple[str, ...],
    change: tuple[str, ...],
    limit: int | None,
) -> None:
    """Show the interfaces of a cluster as it reports them, absent ones too, with what is in the way of serving them."""
    path = f"/clusters/{segment(cluster)}/topology"
    if history:
        query = [*(("nic", each) for each in nic), *(("change", each) for each in change)]
        found = settings.client.get_all(f"{path}/changes", query, most=limit or DEFAULT_CHANGES)
        if settings.as_json:
            print_json(found)
        else:
            _print_changes(found)
        return
    if nic or change or limit is not None:
        raise click.UsageError("--nic, --change and --limit go with --history", click.get_current_context())
    shown = settings.client.get(path).content
    if settings.as_json:
        print_json(shown)
    else:
        _print(shown)


def _print(shown: Any) -> None:
    print_fields(
        [
            ("cluster", f"{shown['cluster']['name']} ({shown['cluster']['id']})"),
            ("vrf", shown["vrf"]),
            ("reported", shown["reported_at"]),
            ("connected", shown["connected"]),
        ]
    )
    if not shown["interfaces"]:
        return
    click.echo()
    print_table(
        ("ID", "NIC", "NETWORK", "VRF", "KIND", "STATE", "SERVING", "ADDRESSES", "GATEWAYS"),
        (
            [
                *(each["id"], each["nic"], each["cidr"], each["vrf"], _kind(each), _state(each), each["serving"]),
                *(",".join(each["addresses"]), ",".join(each["gateways"])),
            ]
            for each in shown["interfaces"]
        ),
    )
    notes = [note for each in shown["interfaces"] if each["present"] for note in _notes(shown, each)]
    if notes:
        click.echo()
        for note in notes:
            click.echo(plain(note))


def _kind(each: Any) -> str:
    kind = each["kind"] if each["vlan"] is None else f"{each['kind']} {each['vlan']}"
    return f"relayed via {kind}" if each["relayed"] else kind


def _state(each: Any) -> str:
    if not each["present"]:
        return "absent"
    return "up" if each["up"] else "down"


def _notes(shown: Any, each: Any) -> list[str]:
    """What an admin may want to do about it."""
    where = f"{each['nic']} on {each['cidr']}"
    confirm = f"regionctl subnets confirm-pair {each['subnet']} {shown['cluster']['name']}"
    if each["serving"] == "conflict":
        return [f"{where} is not served: {each['conflict']}"]
    if each["serving"] == "shared-subnet":
        return [
            f"{where} is not served, since another cluster is on such a network: if it is the same wire, {confirm}; "
            f"if not, give this cluster another VRF (regionctl clusters set {shown['cluster']['name']} --vrf NAME)"
        ]
    if each["serving"] == "unserved":
        return [f"{where} is not served until somebody says so, as clusterd's configuration wants it: {confirm}"]
    if each["serving"] == "declined":
        return [f"{where} is not served, as an admin wants it; the way back: regionctl clusters serve {each['id']}"]
    return []


def _print_changes(found: list[Any]) -> None:
    print_table(
        ("AT", "CHANGE", "NIC", "NETWORK", "VRF", "SERVING", "INTERFACE", "DETAILS"),
        (
            [
                *(each["at"], each["change"], each["nic"], each["cidr"], each["vrf"], each["serving"]),
                *(each["interface"], _details(each)),
            ]
            for each in found
        ),
    )


def _details(each: Any) -> str | None:
    before, after = each["before"], each["after"]
    if each["change"] == "moved":
        former = f"{before.get('cidr')} ({before.get('interface')})"
        return f"from {former}" + (f" of VRF {before['vrf']}" if "vrf" in before else "")
    if not before:
        return ", ".join(f"{name}: {_short(value)}" for name, value in after.items()) or None
    return ", ".join(f"{name}: {_short(before.get(name))} to {_short(after[name])}" for name in after) or None


def _short(value: Any) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, list) else plain(value)
