"""Accounts and tokens as people and programs see them."""

from regiond.domain import versions
from regiond.domain.accounts import AccountView, TokenView
from regiond.domain.ids import Prefix, format_id
from regiond.http.representations.values import moment
from regiond.http.shapes import users as shapes


def account(view: AccountView) -> shapes.Account:
    return {
        "id": format_id(Prefix.ACCOUNT, view.id),
        "name": view.name,
        "role": view.role.value,
        "disabled": view.disabled,
        "reservations": view.reservations,
        "max_reservations": view.max_reservations,
        "max_reservations_per_subnet": view.max_reservations_per_subnet,
        "created": moment(view.created),
        "etag": versions.of_account(view.id, view.disabled, view.max_reservations, view.max_reservations_per_subnet),
    }


def token(view: TokenView) -> shapes.Token:
    """A token without its secret."""
    return {
        "id": format_id(Prefix.TOKEN, view.id),
        "account": view.account_name,
        "name": view.name,
        "read_only": view.read_only,
        "created": moment(view.created),
        "expires_at": moment(view.expires_at),
        "etag": versions.of_token(view.id),
    }
