"""What all claims and releases of regionctl share: how long to wait, whether to probe, what to force, what is left."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from regiond.client.answers import Reply
from regiond.ctl.command import Settings
from regiond.ctl.output import plain, print_json

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--wait", type=click.FloatRange(0, 30), help="Wait so many seconds until clusters have applied it."),
    click.option("--force", is_flag=True, help="Take --address though another client has a lease on it (admin)."),
    click.option(
        "--probe/--no-probe",
        default=None,
        help="Find out on the wire that nobody uses the address, or do not; else as the subnet says.",
    ),
)
force_release = click.option(
    "--force", is_flag=True, help="Free it at once, though a client may still be using it (admin)."
)


def claim_options(function: F) -> F:
    """`--wait`, `--force` and `--probe`, in this order."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def claim_query(wait: float | None, force: bool, probe: bool | None) -> list[tuple[str, str]]:
    """What these say, as a query."""
    query = [] if wait is None else [("wait", f"{wait:.3f}")]
    query += [("force", "true")] if force else []
    query += [] if probe is None else [("probe", str(probe).lower())]
    return query


def release(settings: Settings, path: str, force: bool) -> Reply:
    """Delete what is there. The content of the answer is what clusters have yet to confirm, or None."""
    return settings.client.delete(path, [("force", "true")] if force else [])


def print_released(settings: Settings, reply: Reply, name: str, done: str) -> None:
    """`done` is what becomes of a thing that leaves nothing behind, as in "dv-… is free"."""
    left: Any = reply.content
    if settings.as_json:
        if left is not None:
            print_json(left)
        return
    if left is None:
        click.echo(f"{name} {done}")
        return
    for each in left.get("releasing", [left]):
        waits = "; ".join(map(plain, each["waits_for"]))
        click.echo(f"{each['id']} ({each['address']}) is releasing: {waits}")
