"""Accounts (`/users`) and their tokens over HTTP."""

from datetime import timedelta

from regiond.domain.accounts import AccountView, TokenView
from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.bodies.users import AccountChange, NewAccount, NewTokenBody, TokenPage
from regiond.http.representations import users as show
from regiond.http.routing import BASE, Access, Answer, Call, Route, created, page, shown
from regiond.http.shapes import users as shapes
from regiond.http.use_cases import UseCases

USERS = f"{BASE}/users"
USER = f"{USERS}/{{user}}"
TOKENS = f"{BASE}/tokens"
TOKEN = f"{TOKENS}/{{token}}"


def _account_id(view: AccountView) -> str:
    return format_id(Prefix.ACCOUNT, view.id)


def _token_id(view: TokenView) -> str:
    return format_id(Prefix.TOKEN, view.id)


async def create_user(use: UseCases, call: Call[NewAccount, NoQuery]) -> Answer:
    view = await use.accounts.create_account(call.context, name=call.body.name, role=call.body.role)
    return created(show.account(view), f"{USERS}/{_account_id(view)}")


async def list_users(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.accounts.list_accounts(call.context, limit=call.query.limit + 1, after=call.query.after)
    return page(call, rows, show.account, _account_id)


async def read_user(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.account(await use.accounts.account(call.context, call.path["user"])))


async def change_user(use: UseCases, call: Call[AccountChange, NoQuery]) -> Answer:
    view = await use.accounts.change_account(call.context, call.path["user"], changes=call.body.given)
    return shown(show.account(view))


async def create_token(use: UseCases, call: Call[NewTokenBody, NoQuery]) -> Answer:
    """The only answer that has the token itself; the one to a repeated key has null in its place, since only its hash
    is kept, and is 404 when the token was revoked meanwhile. Whoever lost the answer revokes it (`Location`) and makes
    another, with another key.
    """
    body = call.body
    made = await use.accounts.create_token(
        call.context,
        name=body.name,
        account=body.account,
        read_only=body.read_only,
        expires_at=None if body.expires_in is None else call.now + timedelta(seconds=body.expires_in),
    )
    content = {**show.token(made.token), "token": made.text}
    return created(content, f"{TOKENS}/{_token_id(made.token)}")


async def list_tokens(use: UseCases, call: Call[None, TokenPage]) -> Answer:
    query = call.query
    rows = await use.accounts.list_tokens(call.context, account=query.account, limit=query.limit + 1, after=query.after)
    return page(call, rows, show.token, _token_id)


async def read_token(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.token(await use.accounts.token(call.context, call.path["token"])))


async def revoke_token(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    await use.accounts.revoke_token(call.context, call.path["token"])
    return Answer(204)


ROUTES = [
    Route(
        "POST",
        USERS,
        create_user,
        Access.ADMIN,
        "Make an account",
        NewAccount,
        statuses=(201,),
        shows=shapes.Account,
        refusals=("name-taken",),
    ),
    Route(
        "GET",
        USERS,
        list_users,
        Access.ADMIN,
        "List accounts",
        query=Page,
        list_of=Prefix.ACCOUNT,
        shows=shapes.Account,
    ),
    Route("GET", USER, read_user, Access.USER, "Read an account, by id or name", shows=shapes.Account),
    Route(
        "PATCH",
        USER,
        change_user,
        Access.ADMIN,
        "Disable, enable or limit an account",
        AccountChange,
        conditional=True,
        shows=shapes.Account,
    ),
    Route(
        "POST",
        TOKENS,
        create_token,
        Access.USER,
        "Make a token",
        NewTokenBody,
        statuses=(201,),
        shows=shapes.NewToken,
        refusals=("name-taken", "not-found", "not-permitted"),
    ),
    Route(
        "GET",
        TOKENS,
        list_tokens,
        Access.USER,
        "List tokens",
        query=TokenPage,
        list_of=Prefix.TOKEN,
        shows=shapes.Token,
        refusals=("not-found",),
    ),
    Route("GET", TOKEN, read_token, Access.USER, "Read a token, without its secret", shows=shapes.Token),
    Route("DELETE", TOKEN, revoke_token, Access.USER, "Revoke a token", statuses=(204,), conditional=True),
]
