"""`regionctl events`."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import click

from regiond.client.answers import Unreachable
from regiond.client.event_stream import EventStream, ServerEvent
from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import plain, print_json

LONGEST_PAUSE_SECONDS = 5.0


@click.command()
@click.option(
    "--kind", multiple=True, type=click.Choice(["reservation", "host-map", "cluster"]), help="Only of this kind."
)
@click.option("--subnet", multiple=True, metavar="SELECTOR", help="Only on this subnet: 192.0.2.0/24, rack-a:eth1, ….")
@click.option("--after", metavar="ID", help="What happened since the event with this id comes first.")
@click.option("--wait", type=click.FloatRange(0, 30), help="End when nothing came for so many seconds.")
@json_option
@pass_settings
def events(
    settings: Settings, kind: tuple[str, ...], subnet: tuple[str, ...], after: str | None, wait: float | None
) -> None:
    """Follow what happens, until Ctrl-C: reservations, host maps on clusters, clusters.

    A connection that is lost is made again, and nothing is missed by that.
    """
    query = [*(("kind", each) for each in kind), *(("subnet", each) for each in subnet)]
    query += [] if wait is None else [("wait", f"{wait:g}")]
    for event in _followed(settings, query, after, for_ever=wait is None):
        data = json.loads(event.data)
        if settings.as_json:
            print_json({"id": event.id, "event": event.name, **data})
        else:
            click.echo("  ".join([data["at"], event.name, data["action"], _about(event.name, data), event.id]))


def _followed(
    settings: Settings, query: list[tuple[str, str]], after: str | None, *, for_ever: bool
) -> Iterator[ServerEvent]:
    """The events, over as many connections as it takes."""
    stream = EventStream(after or "")
    pause, connected = 0.0, False
    while True:
        time.sleep(pause)  # no program to hold up: the rest between two connections, so that a region is not stormed
        since = [("after", stream.last_id)] if stream.last_id else []
        stream = EventStream(stream.last_id)
        try:
            for piece in settings.client.stream("/events", [*query, *since]):
                connected, pause = True, 0.0
                for event in stream.feed(piece):
                    if event.name != "end":
                        yield event
                        continue
                    told = json.loads(event.data)
                    if told["list_again"]:
                        raise click.ClickException(f"{told['reason']}: list again what you follow")
                    if not for_ever:
                        return
        except Unreachable as error:
            if not connected or not for_ever:
                raise
            click.echo(f"regionctl: {error}; trying again", err=True)
        pause = min(LONGEST_PAUSE_SECONDS, max(0.5, pause * 2)) * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


def _about(name: str, data: dict[str, Any]) -> str:
    subnet = "" if data["subnet"] is None else f" on {data['subnet']['cidr']}"
    if name == "reservation":
        return f"{data['address']} ({data['reservation']} of {plain(data['owner'])}){subnet}"
    cluster = plain(data["cluster"]["name"])
    if name == "host-map":
        error = "" if data["error"] is None else f": {plain(data['error'])}"
        more = "" if data["complete"] else ", …"
        return f"generation {data['generation']} at {cluster}{subnet} {','.join(data['reservations'])}{more}{error}"
    return f"{cluster}{subnet}"
