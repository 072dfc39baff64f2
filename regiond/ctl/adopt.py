"""`regionctl adopt`: static entries of a site's DHCP server become devices with reservations."""

from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.command import EXIT_REFUSED, Settings, given, json_option, pass_settings
from regiond.ctl.output import print_json, print_table
from regiond.ctl.ranges import SUBNET_HELP

AT_A_TIME: Final = 500


@click.command(epilog=SUBNET_HELP)
@click.argument("cluster")
@click.option("--subnet", metavar="SUBNET", help="Only the static entries of this subnet.")
@click.option("--owner", metavar="ACCOUNT", help="Whose the devices are; yours by default.")
@click.option("--yes", is_flag=True, help="Do it. Without it, nothing is changed.")
@json_option
@pass_settings
def adopt(settings: Settings, cluster: str, subnet: str | None, owner: str | None, yes: bool) -> int:
    """Make devices of the static entries that a cluster's DHCP server has of its own.

    Shows what would become of each entry; with --yes, does it. Each device gets the very address and identifiers of its
    entry. An entry that cannot be adopted is listed with the reason and stays as it is: nobody is given its address.
    Doing it again changes nothing.

    The server's own configuration is never touched. Delete an adopted entry there, in its file and line, when it suits;
    until then the client keeps its address by that entry.

    The exit code is 1 when some entries cannot be adopted.
    """
    found = _entries(settings, cluster, subnet)
    if yes:
        possible = [each["id"] for each in found if each["adoption"] == "possible"]
        refused: dict[str, Any] = {}
        for start in range(0, len(possible), AT_A_TIME):
            body = {"entries": possible[start : start + AT_A_TIME], **given(owner=owner)}
            results = settings.client.post(f"/clusters/{segment(cluster)}/adopt", body).content
            refused.update((each["entry"], each) for each in results if each["adoption"] == "conflict")
        # What came of them is read anew; what stood in the way of one only now is told with the rest.
        found = _entries(settings, cluster, subnet)
        for each in found:
            if each["id"] in refused and each["adoption"] == "possible":
                each.update(adoption="conflict", reason=refused[each["id"]]["reason"])
    if settings.as_json:
        print_json(found)
    else:
        _print(found, yes)
    return EXIT_REFUSED if any(each["adoption"] == "conflict" for each in found) else 0


def _entries(settings: Settings, cluster: str, subnet: str | None) -> list[Any]:
    query = [] if subnet is None else [("subnet", subnet)]
    return settings.client.get_all(f"/clusters/{segment(cluster)}/static-entries", query)


def _print(found: list[Any], done: bool) -> None:
    words = {"possible": "would be adopted", "adopted": "adopted", "conflict": "CONFLICT"}
    print_table(
        ("ADDRESS", "CLIENT", "HOSTNAME", "SUBNET", "ADOPTION", "REASON", "WRITTEN IN"),
        (
            [
                *(each["address"], ",".join(each["identifiers"]), each["hostname"], each["cidr"]),
                *(words[each["adoption"]], each["reason"], each["source"]),
            ]
            for each in sorted(found, key=lambda each: (each["cidr"] or "", each["source"], each["address"]))
        ),
    )
    counts = {name: sum(each["adoption"] == name for each in found) for name in words}
    click.echo(
        f"{counts['adopted']} adopted, {counts['possible']} can be adopted, {counts['conflict']} in conflict"
        + ("" if done or not counts["possible"] else "; nothing was changed: add --yes to do it")
    )
    advice = next((each["what_to_delete"] for each in found if each["what_to_delete"]), None)
    if advice is not None:
        click.echo(f"What is adopted is still in the server's own configuration: {advice}.")
