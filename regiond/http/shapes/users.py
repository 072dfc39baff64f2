"""What accounts and tokens look like."""

from typing import Literal

from regiond.http.shapes.values import AccountId, Count, Etag, Moment, Shape, TokenId


class Account(Shape):
    """A limit counts live user reservations; null is no limit."""

    id: AccountId
    name: str
    role: Literal["admin", "user"]
    disabled: bool
    reservations: Count
    max_reservations: int | None
    max_reservations_per_subnet: int | None
    created: Moment
    etag: Etag


class Token(Shape):
    """A token without its secret."""

    id: TokenId
    account: str
    name: str
    read_only: bool
    created: Moment
    expires_at: Moment | None
    etag: Etag


class NewToken(Token):
    """The only answer with the token itself; in the one to a repeated key it is null."""

    token: str | None
