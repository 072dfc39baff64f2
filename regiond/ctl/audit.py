"""`regionctl audit`."""

import json
from typing import Any

import click

from regiond.ctl.command import Settings, given, json_option, pass_settings
from regiond.ctl.output import print_json, print_table


@click.group()
def audit() -> None:
    """Who did what, when, in which request."""


@audit.command("list")
@click.option("--object", "object_id", multiple=True, metavar="ID", help="To this object: rs-…, rg-…, sn-…, ac-….")
@click.option("--actor", multiple=True, metavar="NAME", help="By this account; `region` is the region itself.")
@click.option("--action", multiple=True, metavar="ACTION", help="Of this sort, e.g. reservation.force-release.")
@click.option("--request-id", multiple=True, metavar="ID", help="In this request: its X-Request-ID.")
@click.option("--since", metavar="TIME", help="At this time or later, e.g. 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many entries.")
@json_option
@pass_settings
def list_entries(
    settings: Settings,
    object_id: tuple[str, ...],
    actor: tuple[str, ...],
    action: tuple[str, ...],
    request_id: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """List what was done, the newest first. An option given more than once means any of its values."""
    chosen = {"object": object_id, "actor": actor, "action": action, "request_id": request_id}
    query = [(name, value) for name, values in chosen.items() for value in values]
    query += given(since=since, until=until).items()
    found = settings.client.get_all("/audit", query, most=limit)
    if settings.as_json:
        print_json(found)
        return
    print_table(
        ("AT", "ACTOR", "ACTION", "OBJECT", "REQUEST", "CHANGE"),
        (
            [each["at"], each["actor"], each["action"], each["object"], each["request_id"], _change(each)]
            for each in found
        ),
    )


def _change(entry: Any) -> str | None:
    """What it became, what it was, or both where they differ."""
    before, after = entry["before"], entry["after"]
    if before is None or after is None:
        only = before if after is None else after
        return None if only is None else _short(only)
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return ", ".join(f"{name}: {_short(before.get(name))} to {_short(after.get(name))}" for name in names)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_short(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value)
