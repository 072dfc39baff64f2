"""Who a cluster is, and how it proves it; tokens for enrolment."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from regiond.domain.accounts import ParsedToken
from regiond.domain.ids import Prefix, format_id, parse_id

MAX_FORMER_INSTANCES: Final = 8

_TOKEN = re.compile(r"hme_([0-9a-z]{10})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class ByName:
    """A cluster on a link that only regiond's own user can open: it is who it says."""

    name: str


@dataclass(frozen=True, slots=True)
class ByCertificate:
    """A cluster that showed a certificate of this region. `name` is what it was called when that was issued."""

    cluster: int
    name: str
    serial: str
    issued: datetime
    expires: datetime


Identity = ByName | ByCertificate


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a cluster says of itself when it registers. `instance` is another one after each start of its clusterd."""

    hostname: str
    backend: str
    software_version: str
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A cluster after `Register`, the number of this connection, and the database's history at that moment.

    `takes_turns`: another instance spoke for it since this one did the last time, so there are two. `unheard`: the
    region recovers, and does not know yet what the cluster has.
    """

    cluster: int
    epoch: int
    name: str
    takes_turns: bool = False
    history: str = field(kw_only=True)
    unheard: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class NewEnrolment:
    """A token with which a cluster of this name can enrol once.

    `text` is the whole token and shown once; None when it was made by an earlier request.
    """

    name: str
    text: str | None = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class EnrolmentOffer:
    """What the operator needs: a token, where it is used, and how the region is recognised there."""

    enrolment: NewEnrolment
    address: str
    fingerprint: str

    @property
    def command(self) -> str | None:
        """To be run on the cluster controller, in any shell; None without the token.

        `echo` is a part of the shell: the token is no argument of any process, where other users could see it.
        """
        if self.enrolment.text is None:
            return None
        return f"echo {self.enrolment.text} | python3 -m clusterd join {self.address} {self.fingerprint}"


def takes_turns(former: Sequence[str], current: str | None, new: str | None) -> bool:
    """Whether an instance is back after another one took its place: a stopped clusterd never comes back as itself."""
    return new is not None and current is not None and new != current and new in former


def former_instances(former: Sequence[str], current: str | None, new: str | None) -> list[str]:
    """What to remember after `new` took the place of `current`."""
    if current is None or current == new:
        return list(former)
    return [*(each for each in former if each != current), current][-MAX_FORMER_INSTANCES:]


def format_enrolment_token(number: int, secret: str) -> str:
    return f"hme_{format_id(Prefix.ENROLMENT, number).partition('-')[2]}_{secret}"


def parse_enrolment_token(text: str) -> ParsedToken | None:
    """The parts of an enrolment token, or None when it is not one."""
    found = _TOKEN.fullmatch(text.strip())
    number = None if found is None else parse_id(Prefix.ENROLMENT, f"{Prefix.ENROLMENT.value}-{found[1]}")
    return None if found is None or number is None else ParsedToken(number, found[2])
