"""Clients that claim and release without mercy, and repeat a request under its key until they know its outcome."""

import http.client
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from tests.chaos.ledger import REFUSALS, Claimed, Ledger, Request
from tests.end_to_end.daemons import UnixConnection

ANSWER_SECONDS: Final = 40.0
SETTLE_SECONDS: Final = 90.0
PAUSE_SECONDS: Final = (0.02, 0.15)
MOST_LIVE: Final = 40
HANG_UP: Final = 0.03
"""How often a client hangs up before the answer."""
SEND_AGAIN: Final = 0.05
"""How often it sends a settled request once more, to compare the answers."""


@dataclass(frozen=True, slots=True)
class Ground:
    """One subnet to claim on. Named addresses are taken from `addresses`, where clients meet."""

    cidr: str
    addresses: Sequence[str]
    force: bool = False
    """Releases are forced: a cluster that is away holds it."""


@dataclass(frozen=True, slots=True)
class World:
    """What all clients know. `node` is the id of a node, `token` is a plain user's."""

    sockets: Sequence[Path]
    grounds: Sequence[Ground]
    node: str
    token: str


class LostAnswer(Exception):
    """No definitive answer: the outcome is not known."""


class Client(Thread):
    """One client; its choices follow from the seed, the answers do not."""

    def __init__(self, number: int, seed: int, world: World, ledger: Ledger, clock: Callable[[], float]) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number = number
        self._random = random.Random(f"{seed}-{number}")
        self._world = world
        self._ledger = ledger
        self._clock = clock
        self._connections: dict[Path, http.client.HTTPConnection] = {}
        self._live: list[Claimed] = []
        self._count = 0
        self.enough = Event()

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                if self._live and (len(self._live) >= MOST_LIVE or self._random.random() < 0.4):
                    self._release(self._live.pop(self._random.randrange(len(self._live))))
                else:
                    self._claim()
        except Exception as error:
            self._ledger.violated(f"client {self._number} broke: {error!r}")
        finally:
            self.close()

    def close(self) -> None:
        """Hang up everywhere."""
        for connection in self._connections.values():
            connection.close()

    # Stories

    def _claim(self) -> None:
        ground = self._random.choice(self._world.grounds)
        address = self._random.choice(ground.addresses) if self._random.random() < 0.15 else None
        body: dict[str, Any] = {"interface": ground.cidr}
        if address is not None:
            body["address"] = address
        self._count += 1
        story = self._random.choice((self._device, self._device, self._node_address, self._reserve))
        path, account, identifiers = story(body, ground)
        request = self._request("POST", path, body, account)
        answer = self._settle(request, expected=(201,))
        if answer is None:
            return
        request.reservations = _reservations(answer)
        wanted = body.get("count", 1)
        if len(request.reservations) != wanted or len({r for r, _ in request.reservations}) != wanted:
            self._ledger.violated(f"{wanted} were asked for, answered: {request.reservations}")
        if address is not None and request.reservations[0][1] != address:
            self._ledger.violated(f"{address} was asked for, answered: {request.reservations}")
        claimed = Claimed(request, ground.cidr, identifiers)
        self._ledger.claimed(claimed)
        self._live.append(claimed)
        request.object = _object_of(path, answer)
        if self._random.random() < SEND_AGAIN:
            again(request, self.send(request), self._ledger)

    def _device(self, body: dict[str, Any], ground: Ground) -> tuple[str, str, Sequence[str]]:
        macs = [self._mac(part) for part in range(self._random.choice((1, 1, 1, 2)))]
        body["macs"] = macs
        if self._random.random() < 0.5:
            body["hostname"] = f"d-{self._number}-{self._count}"
        return "devices?wait=0", "local", macs

    def _node_address(self, body: dict[str, Any], ground: Ground) -> tuple[str, str, Sequence[str]]:
        mac = self._mac(0)
        body["mac"] = mac
        return f"nodes/{self._world.node}/addresses?wait=0", "local", [mac]

    def _reserve(self, body: dict[str, Any], ground: Ground) -> tuple[str, str, Sequence[str]]:
        if "address" not in body:
            body["count"] = self._random.choice((1, 1, 2, 5))
        return "reservations", self._random.choice(("local", "user")), []

    def _mac(self, part: int) -> str:
        count = f"{self._count:06x}"
        return f"02:{self._number:02x}:{part:02x}:{count[:2]}:{count[2:4]}:{count[4:]}"

    def _release(self, claimed: Claimed) -> None:
        assert claimed.claim.object is not None
        force = any(ground.force and ground.cidr == claimed.cidr for ground in self._world.grounds)
        force = force and "reservations" not in claimed.claim.path
        requests = {claimed.claim.object + ("?force=true" if force else ""): [r for r, _ in claimed.claim.reservations]}
        if len(claimed.claim.reservations) > 1:  # a group has no resource of its own: it is released one by one
            requests = {f"reservations/{reservation}": [reservation] for reservation, _ in claimed.claim.reservations}
        for path, reservations in requests.items():
            request = self._request("DELETE", path, None, claimed.claim.account)
            claimed.releases.update(dict.fromkeys(reservations, request))
            if self._settle(request, expected=(202, 204)) is None:
                return

    # One request until its outcome is known

    def _request(self, method: str, path: str, body: Any, account: str) -> Request:
        self._count += 1
        return Request(method, path, body, f"{self._number}-{self._count}", account, self._clock())

    def _settle(self, request: Request, expected: Sequence[int]) -> Any:
        """The answer of the wanted kind, or None when it was refused, or never settled."""
        try:
            status, content = self.send(request)
        except LostAnswer:
            self._ledger.never_settled(request)
            return None
        if status in expected:
            self._ledger.acknowledged(request, self._clock())
            return content if content is not None else {}
        slug = content.get("type") if isinstance(content, dict) else None
        self._ledger.refuse(str(slug))
        if request.method != "POST" or slug not in REFUSALS:
            self._ledger.violated(f"{request.method} {request.path} {request.body} answered {status}: {content}")
        return None

    def send(self, request: Request) -> tuple[int, Any]:
        """Repeat until there is an answer that is not 503. Raises LostAnswer after SETTLE_SECONDS."""
        deadline = self._clock() + SETTLE_SECONDS
        while self._clock() < deadline:
            request.attempts += 1
            where = self._random.choice(self._world.sockets)
            began = self._clock()
            try:
                status, content = self._attempt(where, request, hang_up=self._random.random() < HANG_UP)
            except (OSError, http.client.HTTPException) as error:
                self._connections.pop(where).close()
                self._ledger.answered(type(error).__name__, self._clock() - began)
            else:
                self._ledger.answered(str(status), self._clock() - began)
                if status != 503:
                    return status, content
            time.sleep(self._random.uniform(*PAUSE_SECONDS))  # as a real client does: not a synchronisation
        raise LostAnswer

    def _attempt(self, where: Path, request: Request, *, hang_up: bool) -> tuple[int, Any]:
        connection = self._connections.setdefault(where, UnixConnection(where, ANSWER_SECONDS))
        headers = {"Idempotency-Key": request.key, "X-Request-ID": f"chaos-{request.key}"}
        if request.account == "user":
            headers["Authorization"] = f"Bearer {self._world.token}"
        raw = None
        if request.body is not None:
            raw = json.dumps(request.body).encode()
            headers["Content-Type"] = "application/json"
        connection.request(request.method, f"/api/v1/{request.path}", raw, headers)
        if hang_up:
            raise ConnectionAbortedError
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None


def again(request: Request, answer: tuple[int, Any], ledger: Ledger) -> None:
    """Compare the answer to a repeated claim with the first one."""
    status, content = answer
    if status not in (200, 201) or _reservations(content) != request.reservations:
        ledger.violated(f"two answers to the key {request.key}: first {request.reservations}, then {status} {content}")


def _reservations(content: Any) -> tuple[tuple[str, str], ...]:
    """Ids and addresses in the answer to a claim: a device, a group, or a reservation itself."""
    rows = content.get("reservations", [content])
    return tuple((row["id"], row["address"]) for row in rows)


def _object_of(path: str, content: Any) -> str:
    place = path.partition("?")[0]
    return f"{place}/{content['id']}" if "id" in content else place


def check_all_again(ledger: Ledger, world: World, most: int, seed: int) -> None:
    """Send up to `most` acknowledged claims once more, each to any regiond: the answers are those of the first time."""
    client = Client(255, seed, world, ledger, time.monotonic)
    chosen = ledger.claims if len(ledger.claims) <= most else random.Random(seed).sample(ledger.claims, most)
    for claimed in chosen:
        again(claimed.claim, client.send(claimed.claim), ledger)
    client.close()
