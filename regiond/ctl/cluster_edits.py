"""`regionctl clusters set` and `serve`: what an admin changes of clusters and their interfaces."""

import click

from regiond.client.answers import segment
from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.output import print_json


@click.command("set")
@click.argument("cluster", metavar="NAME")
@click.option("--name", "new_name", metavar="NAME", help="What it is called from now on.")
@click.option("--vrf", metavar="NAME", help="The VRF of its networks: regionctl vrfs list.")
@click.option(
    "--with-pairs",
    is_flag=True,
    help="With --vrf: the clusters that serve subnets together with it get it, too, and these subnets go with all.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --vrf: also when it stops serving subnets, because other clusters are on them or the VRF has such "
    "networks already. Their reservations stay where they are.",
)
@json_option
@pass_settings
def set_cluster(
    settings: Settings, cluster: str, new_name: str | None, vrf: str | None, with_pairs: bool, force: bool
) -> None:
    """Rename a cluster, or give its networks another VRF.

    An enrolled cluster is who its certificate says, and one on the region's own UNIX socket goes on by the name in its
    own configuration: neither notices that it is called something else here. Selectors have to use the new name.

    A subnet that only this cluster is on goes to another VRF with its reservations, and DHCP does not notice. Networks
    to whose NIC clusterd's configuration gives a VRF stay in that.
    """
    changes = given(name=new_name, vrf=vrf)
    if not changes:
        raise click.UsageError("give --name, --vrf or both", click.get_current_context())
    query = [(each, "true") for each, wanted in (("pairs", with_pairs), ("force", force)) if wanted]
    changed = settings.client.patch(f"/clusters/{segment(cluster)}", changes, query).content
    if settings.as_json:
        print_json(changed)
        return
    cidrs = ", ".join(each["cidr"] for each in changed["subnets"] if each["role"] == "serving")
    click.echo(f"{changed['name']} is in VRF {changed['vrf']} and serves {cidrs or 'nothing'}")


@click.command("serve")
@click.argument("interface", metavar="INTERFACE")
@click.option("--no", "declines", is_flag=True, help="It is not to serve it; its DHCP server forgets the host maps.")
@click.option(
    "--force",
    is_flag=True,
    help="With --no: also when no other cluster serves the subnet. Its host maps are pending until one does.",
)
@json_option
@pass_settings
def serve(settings: Settings, interface: str, declines: bool, force: bool) -> None:
    """Say that a cluster serves the network of INTERFACE, or (--no) that it is not to.

    INTERFACE is a ci-… id of `regionctl clusters topology`. Where another cluster serves the same network, say so only
    if both are on one wire; see `subnets confirm-pair`.
    """
    query = [("force", "true")] if force else []
    changed = settings.client.patch(f"/cluster-interfaces/{segment(interface)}", {"serve": not declines}, query).content
    if settings.as_json:
        print_json(changed)
        return
    does = "serves" if changed["serving"] == "serving" else "does not serve"
    click.echo(f"{changed['cluster']['name']} {does} {changed['cidr']} by {changed['nic']}")
