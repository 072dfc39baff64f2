"""`regionctl import`: reservations from a spreadsheet, an export, or a DHCP server's own files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any, Final

import click

from regiond.client.answers import segment
from regiond.ctl.command import EXIT_REFUSED, Settings, json_option, pass_settings
from regiond.ctl.output import plain, print_json, print_table
from regiond.ctl.server_files import ServerFormat, convert, format_of, read_text
from regiond.domain.line_files import MAX_LINES
from regiond.domain.lines import LineFormat, written

WAIT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 1.0
_OVER: Final = ("done", "refused", "failed")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in (*LineFormat, *ServerFormat)]),
    help="What sort of file it is; found out by itself where it can be.",
)
@click.option("--apply", is_flag=True, help="Do it. Without it, nothing is changed.")
@click.option(
    "--leave-out",
    is_flag=True,
    help="Do the rest although something in a DHCP server's file cannot be imported; those addresses are not reserved.",
)
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Pass this column over.")
@click.option("--vrf", metavar="VRF", help="The VRF of a DHCP server's addresses, where several have their networks.")
@click.option("--owner", metavar="ACCOUNT", help="Whose a DHCP server's addresses are; yours by default.")
@json_option
@pass_settings
def import_file(
    settings: Settings,
    file: Path,
    form: str | None,
    apply: bool,
    leave_out: bool,
    ignore: tuple[str, ...],
    vrf: str | None,
    owner: str | None,
) -> int:
    """Reserve the addresses of a file: all of them, or none.

    Says what would be done; with --apply, does it. FILE is a spreadsheet saved as CSV (UTF-8), an export of this
    program, a dhcpd.conf with its host declarations, a dnsmasq configuration or hosts file, or a Kea configuration. The
    first line of a CSV file names its columns: address, and any of subnet, vrf, kind, macs, client_id, duid, hostname,
    owner, device, node, alias, group, purpose, comment, expires_at. At most 10,000 lines.

    A line with a MAC address becomes a device, which its site's DHCP server serves, any other a reservation without a
    host map. What is there already, exactly so, is left alone; nothing that is there is changed. Every line that cannot
    be done is listed, and then nothing is; --leave-out does the rest of a DHCP server's file without what was not
    understood in it.

    The exit code is 1 when there are such lines.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    known = format_of(file.name, text) if form is None else _format_named(form)
    sources: Sequence[str] | None = None
    left_out = 0
    if isinstance(known, ServerFormat):
        content, sources, left_out = _converted(known, file, text, vrf, owner)
        known = LineFormat.JSONL
    elif vrf is not None or owner is not None:
        raise click.UsageError("--vrf and --owner are columns of this file")
    elif leave_out:
        raise click.UsageError("--leave-out is for files of DHCP servers: mend or delete the lines of this one")
    else:
        content = file.read_bytes()
    is_held_back = left_out > 0 and not leave_out
    query = [("dry_run", "false" if apply and not is_held_back else "true"), ("wait", f"{WAIT_SECONDS:g}")]
    query += [("ignore", name) for name in ignore]
    found = settings.client.upload("/imports", known.media_type, content, query, WAIT_SECONDS).content
    while found["state"] not in _OVER:
        _tell(settings, found)
        sleep(POLL_SECONDS)
        found = settings.client.get(f"/imports/{segment(found['id'])}").content
    if settings.as_json:
        print_json(found)
    else:
        _print(found, sources, str(file), may_apply=not is_held_back)
    if is_held_back:
        click.echo(f"{left_out} not imported, see above: mend them, or go on without by --leave-out", err=True)
        return EXIT_REFUSED
    return 0 if found["state"] == "done" else EXIT_REFUSED


def _format_named(name: str) -> LineFormat | ServerFormat:
    return LineFormat(name) if name in list(LineFormat) else ServerFormat(name)


def _converted(
    form: ServerFormat, file: Path, text: str, vrf: str | None, owner: str | None
) -> tuple[bytes, Sequence[str], int]:
    """The lines, the place that each is from, and how many things were not understood."""
    try:
        converted = convert(form, file, text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be read as a file of {form}: {error}") from error
    for remark in converted.remarks:
        click.echo(f"not imported: {plain(remark)}", err=True)
    if len(converted.lines) > MAX_LINES:
        raise click.UsageError(f"{file} has {len(converted.lines)} fixed addresses; at most {MAX_LINES} at a time")
    if not converted.lines:
        raise click.UsageError(f"{file} has no fixed addresses, read as a file of {form}")
    lines = [replace(line, vrf=vrf, owner=owner) for line in converted.lines]
    content = b"".join(written(LineFormat.JSONL, line) for line in lines)
    return content, converted.sources, len(converted.remarks)


def _tell(settings: Settings, found: dict[str, Any]) -> None:
    if not settings.as_json:
        click.echo(f"{found['state']}: {found['checked']} lines checked, {found['applied']} written", err=True)


def _print(found: dict[str, Any], sources: Sequence[str] | None, file: str, *, may_apply: bool) -> None:
    if found["mistakes"]:
        rows = [
            (_place(each["line"], sources, file), each["column"], each["type"], each["detail"])
            for each in found["mistakes"]
        ]
        print_table(("LINE", "COLUMN", "PROBLEM", "WHY"), rows)
    if found["mistake_count"] > len(found["mistakes"]):
        click.echo(f"… and {found['mistake_count'] - len(found['mistakes'])} more")
    if found["state"] == "failed":
        click.echo(f"failed: {plain(found['reason'])}")
        return
    done = found["state"] == "done" and not found["dry_run"]
    told = [f"{found['created']} {'reserved' if done else 'would be reserved'}", f"{found['present']} there already"]
    if found["skipped"]:
        told.append(f"{found['skipped']} passed over (were being released)")
    if found["mistake_count"]:
        told.append(f"{found['mistake_count']} cannot be done")
    end = "" if done else "; nothing was changed"
    could = may_apply and found["state"] == "done" and found["dry_run"] and found["created"]
    more = ": add --apply to do it" if could else ""
    click.echo(", ".join(told) + end + more)


def _place(line: int | None, sources: Sequence[str] | None, file: str) -> str:
    if line is None:
        return "all"
    if sources is not None:
        return sources[line - 1]
    return f"{file}:{line}"
