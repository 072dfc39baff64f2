"""`regionctl accounts`."""

from typing import Any

import click

from regiond.ctl.client import segment
from regiond.ctl.command import Settings, json_option, pass_settings
from regiond.ctl.output import print_json, print_table


@click.group()
def accounts() -> None:
    """Who may use the region: people and programs."""


@accounts.command("create")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["admin", "user"]),
    default="user",
    show_default=True,
    help="An admin may do everything; a user reserves addresses and sees its own.",
)
@json_option
@pass_settings
def create(settings: Settings, name: str, role: str) -> None:
    """Make an account. It needs a token to do anything: regionctl tokens create."""
    _show(settings, settings.client.post("/users", {"name": name, "role": role}).content)


@accounts.command("list")
@json_option
@pass_settings
def list_accounts(settings: Settings) -> None:
    """List all accounts and their roles."""
    found = settings.client.get_all("/users")
    if settings.as_json:
        print_json(found)
    else:
        _print(found)


@accounts.command("disable")
@click.argument("name")
@json_option
@pass_settings
def disable(settings: Settings, name: str) -> None:
    """Let none of an account's tokens in any more; what it has stays."""
    _show(settings, settings.client.patch(f"/users/{segment(name)}", {"disabled": True}).content)


@accounts.command("enable")
@click.argument("name")
@json_option
@pass_settings
def enable(settings: Settings, name: str) -> None:
    """Let an account's tokens in again."""
    _show(settings, settings.client.patch(f"/users/{segment(name)}", {"disabled": False}).content)


def _show(settings: Settings, account: Any) -> None:
    if settings.as_json:
        print_json(account)
    else:
        _print([account])


def _print(found: list[Any]) -> None:
    ordered = sorted(found, key=lambda each: each["name"])
    print_table(
        ("ID", "NAME", "ROLE", "DISABLED", "CREATED"),
        ([each["id"], each["name"], each["role"], each["disabled"], each["created"]] for each in ordered),
    )
