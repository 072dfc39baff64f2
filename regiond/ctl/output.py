"""What regionctl prints: aligned columns for people, or what the API answered."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def print_json(content: Any) -> None:
    """What the API answered, in one line."""
    click.echo(json.dumps(content))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A header and one line for each row; None is a hyphen."""
    lines = [list(columns), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """One line for each: its name and its value. A name may come more than once."""
    pairs = [(name, plain(value)) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name.ljust(width)}  {value}")


def plain(value: Any) -> str:
    """One line that a terminal can show: control characters (a DHCP server's own words may have some) are escaped."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


# Of a releasing reservation the region tells how far the removal of its host map is.
_REMOVAL_STATES: dict[str | None, str] = {"applied": "removed", "pending": "being removed"}


def map_state(reservation: Mapping[str, Any]) -> str | None:
    """How far its host map is, or the removal of that; None where there is none."""
    state = reservation["host_map"]["state"] if reservation["host_map"] else None
    return _REMOVAL_STATES.get(state, state) if reservation["status"] == "releasing" else state


def client_of(reservation: Mapping[str, Any]) -> str | None:
    """By what a DHCP server knows whom the address is for."""
    return ",".join(reservation["macs"]) or reservation["client_id"] or reservation["duid"]


def progress_fields(reservation: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """How far its host map is on each cluster, and what a release waits for."""
    for cluster in reservation["host_map"]["clusters"] if reservation["host_map"] else ():
        error = "" if cluster["error"] is None else f": {cluster['error']}"
        since = f"{cluster['state']} at generation {cluster['generation']} since {cluster['since']}{error}"
        yield (f"on {cluster['name']}", since)
    yield from (("waits for", each) for each in reservation["waits_for"])


def reservation_rows(reservations: Iterable[Mapping[str, Any]]) -> Iterable[Sequence[Any]]:
    """The cells of RESERVATION_COLUMNS."""
    for each in reservations:
        yield (
            each["id"],
            each["address"],
            each["kind"],
            each["status"],
            map_state(each),
            client_of(each),
            each["hostname"],
            each["owner"],
            each["subnet"]["cidr"],
        )


RESERVATION_COLUMNS = ("ID", "ADDRESS", "KIND", "STATUS", "HOST MAP", "CLIENT", "HOSTNAME", "OWNER", "SUBNET")
