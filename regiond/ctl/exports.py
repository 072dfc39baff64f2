"""`regionctl export`: reservations as a file."""

import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import click

from regiond.ctl.command import Settings, pass_settings
from regiond.domain.lines import LineFormat
from regiond.domain.reservations import Kind


@click.command("export")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in LineFormat]),
    default=LineFormat.CSV.value,
    show_default=True,
    help="csv for spreadsheets; jsonl: a JSON object on each line.",
)
@click.option("--output", metavar="FILE", help="Write this file, whole or not at all; the standard output by default.")
@click.option("--subnet", multiple=True, metavar="SELECTOR", help="On this subnet: a network, cluster:nic or id.")
@click.option("--kind", multiple=True, type=click.Choice([kind.value for kind in Kind]), help="Of this kind.")
@click.option("--status", multiple=True, type=click.Choice(["active", "releasing"]), help="In this state.")
@click.option("--owner", multiple=True, metavar="ACCOUNT", help="Of this account.")
@pass_settings
def export(settings: Settings, /, form: str, output: str | None, **filters: tuple[str, ...]) -> None:
    """Write all reservations as a file that `regionctl import` takes.

    An option given more than once means any of its values. It is no snapshot: what is there all the time is in it
    exactly once, what comes or goes meanwhile is in it or not.
    """
    query = [("format", form), *((name, value) for name, values in filters.items() for value in values)]
    pieces = settings.client.stream("/reservations", query)
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        with _replacing(Path(output)) as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}") from error


class _replacing:  # noqa: N801 (used as a function)
    """A file that takes the place of another one when it is whole. It is its writer's alone: it tells who is where."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> BinaryIO:
        number, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        self._temporary = Path(name)
        self._file = os.fdopen(number, "wb")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink()
