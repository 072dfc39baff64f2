"""What accounts and tokens look like."""

from typing import Annotated, Literal

from pydantic import Field

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
    """The only answer with the token itself."""

    token: Annotated[
        str | None,
        Field(
            description="null in the answer to a repeated Idempotency-Key, since only its hash is kept: revoke the "
            "token and make another with another key"
        ),
    ]
