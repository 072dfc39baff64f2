"""What answers of the HTTP API mean, as values and typed errors; pure, and the same for every transport."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

BASE: Final = "/api/v1"
MAX_PAGE: Final = 1000
MAX_TOLD: Final = 10
FIRST_BACK_OFF_SECONDS: Final = 0.2
LONGEST_BACK_OFF_SECONDS: Final = 5.0

_HOST = re.compile(r"[A-Za-z0-9._:-]+")


class ClientError(Exception):
    """A request without a successful answer."""


class Unreachable(ClientError):
    """There was no answer, or none that is the region's. A change may have been carried out all the same."""


class Refused(ClientError):
    """The region said no, with a problem (RFC 9457) that tells why. `type` is stable; `members` are for programs."""

    retry_after: float | None = None

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(_told(status, problem))
        self.status = status
        self.problem = dict(problem)

    @property
    def type(self) -> str:
        return str(self.problem.get("type", f"status-{self.status}"))

    @property
    def detail(self) -> str:
        return str(self.problem.get("detail", ""))

    @property
    def request_id(self) -> str | None:
        """What the region's log and audit know the request by."""
        return self.problem.get("request_id")

    @property
    def members(self) -> dict[str, Any]:
        """What the problem says besides: `holder`, `candidates`, `errors`, `limit`, …"""
        common = {"type", "title", "status", "detail", "request_id"}
        return {name: value for name, value in self.problem.items() if name not in common}


class Misunderstood(Refused):
    """400, 413, 415: the request itself is wrong; `members["errors"]` says where."""


class Unauthenticated(Refused):
    """401: no token, or one that is not valid (any more)."""


class NotPermitted(Refused):
    """403: the account or its token may not do this."""


class NotFound(Refused):
    """404: nothing has this id or name, or nothing that the account may see."""


class Conflict(Refused):
    """409: what is there does not allow it; `members` has the `holder`, the `candidates` and so on."""


class StaleVersion(Refused):
    """412: it was changed since it was read."""


class KeyReused(Refused):
    """422: the idempotency key was used for another request."""


class TooMany(Refused):
    """429: asked too fast, or too much at a time."""


class Unavailable(Refused):
    """500 and above: the region cannot answer now. `outcome_unknown`: it may have been carried out."""

    @property
    def outcome_unknown(self) -> bool:
        return bool(self.problem.get("outcome_unknown", self.type == "internal-error"))


_BY_STATUS: Final[Mapping[int, type[Refused]]] = {
    **dict.fromkeys((400, 413, 415), Misunderstood),
    401: Unauthenticated,
    403: NotPermitted,
    404: NotFound,
    409: Conflict,
    412: StaleVersion,
    422: KeyReused,
    429: TooMany,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer. `content` is None where there is no body; `next_page` is the target of the next page."""

    status: int
    content: Any
    next_page: str | None = None


def read_reply(where: str, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """`headers` are by lower-case name. Raises Refused, and Unreachable for what is no region's answer."""
    try:
        value = json.loads(body) if body else None
    except ValueError as error:
        raise Unreachable(f"{where} answered with something that is not JSON: is it a region?") from error
    if status >= 300:
        raise refusal(status, headers, value if isinstance(value, dict) else {})
    return Reply(status, value, _next_page(headers.get("link")))


def refusal(status: int, headers: Mapping[str, str], problem: Mapping[str, Any]) -> Refused:
    """The error of its kind."""
    kind = Unavailable if status >= 500 else _BY_STATUS.get(status, Refused)
    error = kind(status, problem)
    after = headers.get("retry-after", "")
    error.retry_after = float(after) if after.isdecimal() else None
    return error


def back_off(attempt: int, error: Exception | None = None, jitter: float | None = None) -> float:
    """Seconds to wait before attempt `attempt` + 1 (the first one is 1), longer and longer, and as the region says."""
    chance = random.random() if jitter is None else jitter  # noqa: S311 (not a secret)
    longest = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(attempt - 1, 10))
    told = (error.retry_after or 0.0) if isinstance(error, Refused) else 0.0
    return told + longest * (1 + chance) / 2


def can_be_repeated(error: ClientError) -> bool:
    """Whether the same request, under the same idempotency key, may have another answer in a moment."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.retry_after is not None)


def segment(text: str) -> str:
    """A name or id as one segment of a path, whatever is in it."""
    return quote(text, safe="")


def request_target(path: str, query: Sequence[tuple[str, str]] = ()) -> str:
    """What a request line names: `path` is below the API's base."""
    return BASE + path + (f"?{urlencode(query)}" if query else "")


def parse_url(text: str) -> str:
    """The URL of a region, e.g. `https://region.example:5240`. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(f"not a URL of a region: {text[:100]!r} (expected http://HOST:PORT or https://HOST:PORT)")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text[:100]!r} has more than a scheme, a host and a port")
    _ = parts.port  # raises ValueError for what is not a port
    return f"{parts.scheme}://{parts.netloc}"


def _next_page(link: str | None) -> str | None:
    if link is None or not link.startswith("<") or 'rel="next"' not in link:
        return None
    return link[1:].partition(">")[0]


def _told(status: int, problem: Mapping[str, Any]) -> str:
    """A problem in one line."""
    slug = problem.get("type", f"status {status}")
    mistakes = problem.get("errors")
    detail = str(problem.get("detail", problem.get("title", "")))
    if isinstance(mistakes, list) and len(mistakes) > 1:
        detail = "; ".join(f"{each.get('pointer')}: {each.get('detail')}" for each in mistakes)
    candidates = problem.get("candidates")
    if isinstance(candidates, list) and candidates:
        detail += "; candidates: " + ", ".join(_candidate(each) for each in candidates)
    leases = problem.get("leases")
    if isinstance(leases, list) and leases:
        detail += "; leased to: " + ", ".join(_leased(each) for each in leases[:MAX_TOLD])
    reservations = problem.get("reservations")
    if isinstance(reservations, list) and reservations:
        more = "" if problem.get("count", 0) <= MAX_TOLD else ", …"
        detail += "; reserved: " + ", ".join(_reserved(each) for each in reservations[:MAX_TOLD]) + more
    return f"{slug}: {detail}"


def _leased(each: Mapping[str, Any]) -> str:
    client = each.get("mac") or each.get("client_id") or each.get("duid") or "somebody"
    return f"{client} until {each.get('expires_at') or 'it is ended'}"


def _reserved(each: Mapping[str, Any]) -> str:
    return f"{each.get('address')} ({each.get('id')} of {each.get('owner')})"


def _candidate(each: Mapping[str, Any]) -> str:
    place = f"{each.get('cluster')}:{each.get('nic')} " if each.get("cluster") else ""
    return f"{each.get('id')} ({place}{each.get('cidr')} in {each.get('vrf')})"
