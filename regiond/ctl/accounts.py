"""`regionctl accounts`."""

from typing import Any

import click

from regiond.client.answers import segment
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


class Limit(click.ParamType[str]):
    """A number, or `none`; kept as text, so that none given differs from none."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "none" and not (str(value).isascii() and str(value).isdigit()):
            self.fail(f"{value!r} is no limit: write a number or none", param, ctx)
        return str(value)


@accounts.command("set")
@click.argument("name")
@click.option("--max-reservations", type=Limit(), help="So many user reservations at a time; none for no limit.")
@click.option("--max-reservations-per-subnet", type=Limit(), help="So many on any one subnet; none for no limit.")
@json_option
@pass_settings
def set_limits(settings: Settings, /, name: str, **limits: str | None) -> None:
    """Limit how many user reservations an account may have. What it has already stays."""
    body = {field: None if limit == "none" else int(limit) for field, limit in limits.items() if limit is not None}
    if not body:
        raise click.UsageError("say which limit to set", click.get_current_context())
    _show(settings, settings.client.patch(f"/users/{segment(name)}", body).content)


def _show(settings: Settings, account: Any) -> None:
    if settings.as_json:
        print_json(account)
    else:
        _print([account])


def _print(found: list[Any]) -> None:
    ordered = sorted(found, key=lambda each: each["name"])
    print_table(
        ("ID", "NAME", "ROLE", "DISABLED", "RESERVATIONS", "LIMIT", "PER SUBNET", "CREATED"),
        (
            [
                *(each["id"], each["name"], each["role"], each["disabled"], each["reservations"]),
                *(each["max_reservations"], each["max_reservations_per_subnet"], each["created"]),
            ]
            for each in ordered
        ),
    )
