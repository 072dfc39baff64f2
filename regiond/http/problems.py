"""The one table from what went wrong to an HTTP status, and its RFC 9457 form.

`type` is the stable slug that programs compare; `detail` is for people and says what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from regiond.domain.errors import BatchRefused, Candidate, DomainError
from regiond.domain.leases import FoundLease
from regiond.domain.ranges import AddressRange
from regiond.domain.reservations import Reservation
from regiond.http.representations.leases import foreign_lease
from regiond.http.representations.reservations import holder
from regiond.http.representations.subnets import address_range
from regiond.storage.errors import DatabaseUnavailable
from regiond.use_cases.requests import Caller

MEDIA_TYPE: Final = "application/problem+json"

# slug → (status, title)
PROBLEMS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed-json": (400, "The body is not JSON"),
    "invalid-request": (400, "The request cannot be understood"),
    "bad-selector": (400, "The selector cannot be read"),
    "unauthenticated": (401, "A valid token is needed"),
    "not-permitted": (403, "The account may not do this"),
    "read-only-token": (403, "The token may only read"),
    "not-found": (404, "There is no such thing"),
    "no-such-cluster-interface": (404, "The selector names nothing"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "batch-refused": (409, "Members of the batch are refused"),
    "ambiguous-selector": (409, "The selector names several subnets"),
    "address-taken": (409, "The address is taken"),
    "identifier-taken": (409, "The client has another reservation on this subnet"),
    "address-outside-subnet": (409, "The address is not in the subnet"),
    "address-not-usable": (409, "No host can have this address"),
    "address-in-dynamic-range": (409, "The DHCP server leases this address itself"),
    "address-in-reserved-range": (409, "The address is excluded from allocation"),
    "address-of-infrastructure": (409, "A gateway or cluster controller has this address"),
    "address-in-use": (409, "Somebody uses the address"),
    "address-of-static-entry": (409, "A static entry of a DHCP server has this address"),
    "leased-to-another": (409, "The DHCP server has leased the address to another client"),
    "range-reported": (409, "The range is a DHCP server's own pool"),
    "subnet-exhausted": (409, "No claimable address is left"),
    "wrong-address-family": (409, "The identifier does not fit the address family"),
    "delete-under-owner": (409, "The reservation is deleted elsewhere"),
    "change-under-owner": (409, "The reservation is changed elsewhere"),
    "being-released": (409, "The reservation is being released"),
    "not-recovering": (409, "No recovery goes on"),
    "already-recovering": (409, "A recovery goes on already"),
    "clusters-not-heard": (409, "Clusters that may serve unknown addresses were not heard"),
    "name-taken": (409, "The name is taken"),
    "range-overlap": (409, "Another range has some of these addresses"),
    "range-over-reservations": (409, "The DHCP server would lease addresses that somebody has"),
    "no-cluster-listener": (409, "Clusters cannot connect here"),
    "vrf-in-use": (409, "Something is in the VRF"),
    "subnets-left-behind": (409, "The cluster would stop serving subnets"),
    "subnet-in-use": (409, "Somebody uses the subnet"),
    "subnet-overlap": (409, "Another subnet has some of these addresses"),
    "cluster-holds-host-maps": (409, "The cluster may still serve host maps"),
    "cluster-not-on-subnet": (409, "The cluster is not on the subnet"),
    "last-serving-cluster": (409, "No other cluster serves the subnet"),
    "node-full": (409, "The node has as many addresses as it may"),
    "quota-exceeded": (409, "The account has as many reservations as it may"),
    "events-gone": (410, "What followed this event is not known any more"),
    "stale-version": (412, "It was changed since it was read"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body has to be JSON"),
    "idempotency-key-reused": (422, "The Idempotency-Key was used for another request"),
    "too-many-requests": (429, "The token asks too fast"),
    "too-many-imports": (429, "Too many imports are not finished"),
    "internal-error": (500, "A bug in the region"),
    "database-unavailable": (503, "The database does not answer"),
    "subnet-not-ready": (503, "It is not known yet what the subnet's DHCP server has of its own"),
    "not-probed": (503, "No address could be found out to be nobody's"),
    "subnet-recovering": (503, "The subnet is being recovered"),
    "too-many-followers": (503, "Too many follow what happens"),
    "not-ready": (503, "The region cannot serve requests now"),
}


class Problem(Exception):
    """An answer that is an error. `headers` go with it."""

    def __init__(self, slug: str, detail: str, headers: Sequence[tuple[str, str]] = (), **members: Any) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = PROBLEMS[slug]
        self.detail = detail
        self.headers = tuple(headers)
        self.members = members

    def content(self, request_id: str) -> dict[str, Any]:
        """The JSON object."""
        return {**self.about, "request_id": request_id}

    @property
    def about(self) -> dict[str, Any]:
        """What it says of itself, whatever request it is the answer to."""
        return {"type": self.slug, "title": self.title, "status": self.status, "detail": self.detail, **self.members}


def invalid(pointer: str, detail: str) -> Problem:
    """One mistake: `pointer` is a JSON pointer into the body, `?name` of the query, or the name of a header."""
    return Problem(
        "invalid-request", f"{pointer or 'the body'}: {detail}", errors=[{"pointer": pointer, "detail": detail}]
    )


def of_domain_error(error: DomainError, caller: Caller) -> Problem:
    """With as much of holders and leases as the asker may see."""
    if isinstance(error, BatchRefused):
        refused = [{"member": position, **of_domain_error(one, caller).about} for position, one in error.refused]
        return Problem(error.slug, error.detail, refused=refused)
    # What is a matter of time can be tried again.
    headers = [("Retry-After", "2")] if PROBLEMS[error.slug][0] in (429, 503) else []
    members = {name: _plain(value, caller) for name, value in error.members.items()}
    return Problem(error.slug, error.detail, headers, **members)


def of_database(error: DatabaseUnavailable) -> Problem:
    """The caller can try again at once, and learns whether that is safe without a key."""
    if error.outcome_unknown:
        detail = (
            "the database's answer was lost: this request may have been carried out or not. "
            "Repeat it with the same Idempotency-Key to get its one answer"
        )
    else:
        detail = "nothing was changed: try again"
    return Problem("database-unavailable", detail, [("Retry-After", "1")], outcome_unknown=error.outcome_unknown)


def _plain(value: Any, caller: Caller) -> Any:
    if isinstance(value, Reservation):
        return holder(value, caller)
    if isinstance(value, FoundLease):
        return foreign_lease(value, caller)
    if isinstance(value, AddressRange):
        return address_range(value)
    if isinstance(value, Candidate):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item, caller) for item in value]
    return value
