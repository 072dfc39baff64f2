"""`regionctl`: what an operator does with the region, from a shell."""

import os
from shlex import quote

import click

from regiond.client.answers import parse_url
from regiond.ctl.accounts import accounts
from regiond.ctl.adopt import adopt
from regiond.ctl.audit import audit
from regiond.ctl.check import check
from regiond.ctl.client import DEFAULT_SOCKET, DEFAULT_TIMEOUT_SECONDS, Target, check_token, read_token_file
from regiond.ctl.cluster_edits import serve, set_cluster
from regiond.ctl.clusters import clusters
from regiond.ctl.command import RegionGroup, Settings
from regiond.ctl.devices import devices
from regiond.ctl.events import events
from regiond.ctl.exports import export
from regiond.ctl.imports import import_file
from regiond.ctl.in_use import in_use
from regiond.ctl.leases import leases
from regiond.ctl.nodes import nodes
from regiond.ctl.pairs import clusters as clusters_on_subnet
from regiond.ctl.pairs import confirm_pair, unpair
from regiond.ctl.ranges import ranges
from regiond.ctl.recover import recover
from regiond.ctl.reservations import reservations
from regiond.ctl.subnets import subnets
from regiond.ctl.tokens import tokens
from regiond.ctl.topology import topology
from regiond.ctl.vrfs import add_subnet, remove_subnet, vrfs


@click.group(cls=RegionGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--socket",
    metavar="PATH",
    envvar="REGIOND_SOCKET",
    show_envvar=True,
    help=f"The region's UNIX socket, {DEFAULT_SOCKET} by default. Whoever can open it is the admin `local`.",
)
@click.option(
    "--url",
    metavar="URL",
    envvar="REGIOND_URL",
    show_envvar=True,
    help="The region's URL instead, with a token from $REGIOND_TOKEN or --token-file.",
)
@click.option(
    "--token-file",
    metavar="PATH",
    envvar="REGIOND_TOKEN_FILE",
    show_envvar=True,
    help="A file with a token in it, mode 600. Tokens are never given as arguments: other users could see them.",
)
@click.option(
    "--ca-file",
    metavar="PATH",
    envvar="REGIOND_CA_FILE",
    show_envvar=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Whose certificates an https URL may have; those that the operating system knows, by default.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=DEFAULT_TIMEOUT_SECONDS,
    show_default=True,
    help="How long to wait for an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what the API answered.")
@click.version_option(package_name="hostmap", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    context: click.Context,
    socket: str | None,
    url: str | None,
    token_file: str | None,
    ca_file: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Ask and tell the region who has which IP address.

    Exit codes: 0 done, 1 refused by the region, 2 a mistake in the command, 3 the region cannot be reached.
    """
    source = context.get_parameter_source("socket")
    if url is not None and socket is not None and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--socket and --url exclude each other", context)
    context.obj = Settings(_target(socket, url, token_file, ca_file, timeout), as_json)


def _target(socket: str | None, url: str | None, token_file: str | None, ca_file: str | None, timeout: float) -> Target:
    try:
        token = None if token_file is None else _token_of(token_file)
        if url is None:
            return Target(socket=socket or DEFAULT_SOCKET, token=token, timeout=timeout)
        if token is None and "REGIOND_TOKEN" in os.environ:
            token = check_token(os.environ["REGIOND_TOKEN"], "$REGIOND_TOKEN")
        if token is None:
            raise click.UsageError("--url needs a token, in $REGIOND_TOKEN or by --token-file")
        return Target(url=parse_url(url), token=token, timeout=timeout, ca_file=ca_file)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _token_of(path: str) -> str:
    token, for_everybody = read_token_file(path)
    if for_everybody:
        click.echo(f"regionctl: everybody on this host may read the token in {path}: chmod 600 {quote(path)}", err=True)
    return token


clusters.add_command(serve)
clusters.add_command(set_cluster)
clusters.add_command(topology)
subnets.add_command(add_subnet)
subnets.add_command(remove_subnet)
subnets.add_command(clusters_on_subnet)
subnets.add_command(confirm_pair)
subnets.add_command(unpair)
cli.add_command(accounts)
cli.add_command(adopt)
cli.add_command(audit)
cli.add_command(check)
cli.add_command(clusters)
cli.add_command(devices)
cli.add_command(events)
cli.add_command(export)
cli.add_command(import_file)
cli.add_command(leases)
cli.add_command(in_use)
cli.add_command(nodes)
cli.add_command(ranges)
cli.add_command(recover)
cli.add_command(reservations)
cli.add_command(subnets)
cli.add_command(tokens)
cli.add_command(vrfs)


def main() -> None:
    """The entry point."""
    cli(prog_name="regionctl")
