"""`regionctl clusters`."""

import click

from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import print_json, print_table


@click.group()
def clusters() -> None:
    """The sites and what they have of the region's host maps."""


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
        own = [cluster["id"], cluster["name"], cluster["connected"], cluster["backend"]]
        for subnet in cluster["subnets"] or [None]:
            if subnet is None:
                rows.append([*own, None, None, None, None])
                continue
            generations = f"{subnet['applied_generation']}/{subnet['desired_generation']}"
            rows.append([*own, subnet["cidr"], subnet["role"], generations, subnet["error"]])
    print_table(("ID", "NAME", "CONNECTED", "BACKEND", "SUBNET", "ROLE", "APPLIED", "ERROR"), rows)
