"""`regionctl tokens`."""

import click

from regiond.client.answers import segment
from regiond.ctl.command import DURATION, Settings, given, json_option, pass_settings
from regiond.ctl.output import print_json, print_table


@click.group()
def tokens() -> None:
    """What accounts prove themselves with."""


@tokens.command("create")
@click.argument("name")
@click.option("--account", metavar="NAME", help="Whose it is (admin); your own by default.")
@click.option("--read-only", is_flag=True, help="It may look but not change anything.")
@click.option("--expires-in", type=DURATION, help="For how long it is valid, e.g. 30d; for ever by default.")
@json_option
@pass_settings
def create(settings: Settings, name: str, account: str | None, read_only: bool, expires_in: int | None) -> None:
    """Make a token and print it: alone on stdout, now and never again."""
    body = given(name=name, account=account, read_only=read_only, expires_in=expires_in)
    made = settings.client.post("/tokens", body).content
    if settings.as_json:
        print_json(made)
        return
    click.echo(f"token {made['id']} of {made['account']}; it is shown this once:", err=True)
    click.echo(made["token"])


@tokens.command("list")
@click.option("--account", metavar="NAME", help="Only this account's.")
@json_option
@pass_settings
def list_tokens(settings: Settings, account: str | None) -> None:
    """List tokens, without their secrets: all of them (admin) or your own."""
    found = settings.client.get_all("/tokens", [] if account is None else [("account", account)])
    if settings.as_json:
        print_json(found)
        return
    print_table(
        ("ID", "ACCOUNT", "NAME", "READ ONLY", "CREATED", "EXPIRES"),
        (
            [each["id"], each["account"], each["name"], each["read_only"], each["created"], each["expires_at"]]
            for each in sorted(found, key=lambda each: (each["account"], each["name"]))
        ),
    )


@tokens.command("revoke")
@click.argument("token_id", metavar="ID")
@json_option
@pass_settings
def revoke(settings: Settings, token_id: str) -> None:
    """Make a token worthless, by its tk-… id."""
    settings.client.delete(f"/tokens/{segment(token_id)}")
    if not settings.as_json:
        click.echo(f"{token_id} is revoked")
