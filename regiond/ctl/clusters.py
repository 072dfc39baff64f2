"""`regionctl clusters`."""

from typing import Any

import click

from regiond.client.answers import segment
from regiond.ctl.command import DURATION, Settings, given, json_option, pass_settings
from regiond.ctl.output import print_fields, print_json, print_table


@click.group()
def clusters() -> None:
    """The sites: who may be one, and what each has of the region's host maps."""


@clusters.command("list")
@json_option
@pass_settings
def list_clusters(settings: Settings) -> None:
    """List clusters, one line for each subnet that a cluster serves."""
    found = settings.client.get_all("/clusters")
    if settings.as_json:
        print_json(found)
        return
    rows = []
    for cluster in sorted(found, key=lambda each: each["name"]):
        connected = "revoked" if cluster["revoked"] else cluster["connected"]
        own = [cluster["id"], cluster["name"], connected, cluster["backend"]]
        for subnet in cluster["subnets"] or [None]:
            if subnet is None:
                rows.append([*own, None, None, None, None])
                continue
            generations = f"{subnet['applied_generation']}/{subnet['desired_generation']}"
            rows.append([*own, subnet["cidr"], subnet["role"], generations, subnet["error"]])
    print_table(("ID", "NAME", "CONNECTED", "BACKEND", "SUBNET", "ROLE", "APPLIED", "ERROR"), rows)


@clusters.command("show")
@click.argument("cluster", metavar="NAME")
@json_option
@pass_settings
def show(settings: Settings, cluster: str) -> None:
    """Show a cluster, by name or cl-… id."""
    found = settings.client.get(f"/clusters/{segment(cluster)}").content
    if settings.as_json:
        print_json(found)
    else:
        _print(found)


@clusters.command("enrol")
@click.argument("name")
@click.option("--expires-in", type=DURATION, help="For how long the command is good, e.g. 2d; an hour by default.")
@click.option("--withdraw", is_flag=True, help="Make the command that was printed for this name worthless instead.")
@json_option
@pass_settings
def enrol(settings: Settings, name: str, expires_in: int | None, withdraw: bool) -> None:
    """Print the one command that makes a host the cluster NAME.

    Run it on the cluster controller, as the user that clusterd runs as or as root. It works once. A name that is there
    already keeps its ids; what was enrolled by it before is refused from then on.
    """
    path = f"/clusters/{segment(name)}/enrolment"
    if withdraw:
        settings.client.delete(path)
        if not settings.as_json:
            click.echo(f"the command that was printed for {name} is worthless now")
        return
    offer = settings.client.post(path, given(expires_in=expires_in)).content
    if settings.as_json:
        print_json(offer)
        return
    click.echo(f"To be run on the controller of cluster {offer['name']}, once, until {offer['expires_at']}:", err=True)
    click.echo(offer["command"])


@clusters.command("revoke")
@click.argument("cluster", metavar="NAME")
@json_option
@pass_settings
def revoke(settings: Settings, cluster: str) -> None:
    """Refuse a cluster from now on, and cut its connection.

    Its DHCP server goes on with what it has. Enrolling the cluster again ends it.
    """
    found = settings.client.post(f"/clusters/{segment(cluster)}/revoke", None).content
    if settings.as_json:
        print_json(found)
    else:
        click.echo(f"{found['name']} is revoked; regionctl clusters enrol {found['name']} lets it in again")


@clusters.command("forget")
@click.argument("cluster", metavar="NAME")
@click.option(
    "--dhcp-is-off",
    is_flag=True,
    help="The cluster's DHCP server is off for good: nobody is answered with the host maps that it may still have.",
)
@json_option
@pass_settings
def forget(settings: Settings, cluster: str, dhcp_is_off: bool) -> None:
    """Remove a cluster that is gone for good. The addresses that it served still rest for the release hold."""
    query = [("dhcp_is_off", "true")] if dhcp_is_off else []
    settings.client.delete(f"/clusters/{segment(cluster)}", query)
    if not settings.as_json:
        click.echo(f"{cluster} is forgotten")


def _print(cluster: Any) -> None:
    fields = [
        *((name, cluster[name]) for name in ("id", "name", "vrf", "hostname", "backend")),
        ("software version", cluster["software_version"]),
        ("connected", cluster["connected"]),
        ("connected since", cluster["connected_since"]),
        ("last heard", cluster["last_heard"]),
        ("enrolled", cluster["enrolled"]),
        ("certificate expires", cluster["certificate_expires"]),
        ("revoked", cluster["revoked"]),
        ("two hosts seen", cluster["turns_seen"]),
    ]
    print_fields(fields)
    rows = [
        [
            *(each["cidr"], each["role"], each["desired_generation"], each["accepted_generation"]),
            *(each["applied_generation"], each["error"], _drift(each["drift"])),
        ]
        for each in cluster["subnets"]
    ]
    if rows:
        click.echo()
        print_table(("SUBNET", "ROLE", "DESIRED", "ACCEPTED", "APPLIED", "ERROR", "LAST DRIFT"), rows)


def _drift(drift: Any) -> str | None:
    return None if drift is None else f"{drift['repaired']} put right {drift['at']}"


@clusters.command("dhcp-server")
@click.argument("cluster")
@json_option
@pass_settings
def dhcp_server(settings: Settings, cluster: str) -> None:
    """Show what a cluster's DHCP server has of its own: pools that are kept out of allocation, static entries.

    The static entries are listed by `regionctl adopt CLUSTER`.
    """
    shown = settings.client.get(f"/clusters/{segment(cluster)}/dhcp-server").content
    if settings.as_json:
        print_json(shown)
        return
    fields = [
        ("cluster", shown["cluster"]["name"]),
        ("backend", shown["backend"]),
        ("contact", _CONTACT[shown["contact"]]),
        ("last read", shown["read_at"]),
        ("cannot be read", shown["error"]),
        ("static entries", shown["static_entries"]),
    ]
    fields += [("not understood", remark) for remark in shown["remarks"]]
    for pool in shown["pools"]:
        over = f", CONFLICT: {pool['reservations']} reserved addresses are in it" if pool["reservations"] else ""
        fields.append(("pool", f"{pool['low']} to {pool['high']} ({pool['source']}){over}"))
    print_fields(fields)


_CONTACT = {
    "unsupported": "not reported by this clusterd: keep the server's pools out by hand (regionctl ranges add)",
    "awaited": "not reported yet: nothing is claimed on its subnets (regionctl subnets set SUBNET --claimable-anyway)",
    "reported": "reported",
}
