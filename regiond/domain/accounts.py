"""Accounts and bearer tokens as values, and the text form of a token.

A token is `hm_<id>_<secret>`: the ten characters of its `tk-…` id, and 43 characters that carry 256 random bits. The
id makes the lookup cheap and lets an operator recognise a token that leaked; only the secret proves anything.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from regiond.domain.ids import Prefix, format_id, parse_id

SECRET_BYTES: Final = 32
SALT_BYTES: Final = 16
LOCAL_ACCOUNT: Final = "local"  # whoever can open the region's own UNIX socket; it has no tokens

_TOKEN = re.compile(r"hm_([0-9a-z]{10})_([A-Za-z0-9_-]{43})")


class Role(StrEnum):
    """What an account may do: everything, or only what is its own."""

    ADMIN = "admin"
    USER = "user"


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account. `reservations` are its live user reservations; the limits of their number may be None: no limit."""

    id: int
    name: str
    role: Role
    disabled: bool
    created: datetime
    max_reservations: int | None = None
    max_reservations_per_subnet: int | None = None
    reservations: int = 0


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token without its secret, which nobody knows any more."""

    id: int
    account: int
    account_name: str
    name: str
    read_only: bool
    created: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is kept of a secret."""

    salt: bytes = field(repr=False)
    hash: bytes = field(repr=False)

    def fits(self, secret: str) -> bool:
        """Whether this is the secret, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(hash_of(self.salt, secret), self.hash)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made. `text` is the whole token and shown once; None when it was made by an earlier request."""

    token: TokenView
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ParsedToken:
    id: int
    secret: str = field(repr=False)


def make_secret(random: bytes) -> str:
    """The 43 characters of SECRET_BYTES random bytes."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} random bytes")
    return urlsafe_b64encode(random).decode().rstrip("=")


def hash_of(salt: bytes, secret: str) -> bytes:
    """SHA-256 of salt and secret. No slow hash: nobody can guess 256 random bits."""
    return sha256(salt + secret.encode()).digest()


def format_token(token: int, secret: str) -> str:
    return f"hm_{format_id(Prefix.TOKEN, token).partition('-')[2]}_{secret}"


def parse_token(text: str) -> ParsedToken | None:
    """The parts of a token's text, or None when it is not one."""
    found = _TOKEN.fullmatch(text)
    if found is None:
        return None
    number = parse_id(Prefix.TOKEN, f"{Prefix.TOKEN.value}-{found[1]}")
    return None if number is None else ParsedToken(number, found[2])
