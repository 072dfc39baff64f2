"""What is sent about accounts and tokens."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from regiond.domain.accounts import Role
from regiond.http.bodies.base import Body, Change, Page
from regiond.http.fields import AccountName, ExpiresIn, Name, ReservationLimit


class NewAccount(Body):
    examples: ClassVar[Mapping[str, Any]] = {"a user": {"name": "alice"}, "an admin": {"name": "bob", "role": "admin"}}

    name: AccountName
    role: Role = Field(default=Role.USER, strict=False)


class AccountChange(Change):
    """A limit counts live user reservations; null is no limit."""

    examples: ClassVar[Mapping[str, Any]] = {"a limit": {"max_reservations": 100}, "no entry": {"disabled": True}}

    disabled: bool | None = None
    max_reservations: ReservationLimit | None = None
    max_reservations_per_subnet: ReservationLimit | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"max_reservations", "max_reservations_per_subnet"})


class NewTokenBody(Body):
    """A bearer token; without `account` it is the caller's own."""

    examples: ClassVar[Mapping[str, Any]] = {
        "for reading, for a year": {"name": "grafana", "read_only": True, "expires_in": 31536000}
    }

    name: Name
    account: AccountName | None = None
    read_only: bool = False
    expires_in: ExpiresIn | None = None


class TokenPage(Page):
    account: Annotated[AccountName | None, Field(description="only those of this account, by id or name")] = None
