"""A load client: many connections, one request at a time on each, as fast as the answers come.

Run as a process of its own: a JSON list of `Load` fields on stdin, the result as JSON on stdout. Plain sockets and no
parsing while the clock runs, so that it takes little of the two cores from what it measures.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    """`connections` to each of `ports` for `seconds`; `kind` is device, bulk or release.

    `interfaces` are taken in turn; MAC addresses count up from `first`; `paths` are what a release deletes.
    """

    kind: str
    ports: list[int]
    token: str
    connections: int
    seconds: float
    interfaces: list[str]
    first: int = 0
    paths: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    sent_at: float = 0.0
    buffer: bytes = b""


def run(load: Load) -> dict[str, Any]:
    """Latencies in seconds, and the answers by status with their bodies."""
    selector = selectors.DefaultSelector()
    connections = []
    for number in range(load.connections):
        connected = socket.create_connection(("127.0.0.1", load.ports[number % len(load.ports)]))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(connected)
        selector.register(connected, selectors.EVENT_READ, connection)
        connections.append(connection)
    requests = _requests(load)
    latencies: list[float] = []
    answers: list[bytes] = []
    open_requests = 0
    started = time.perf_counter()
    end = started + load.seconds
    for connection in connections:
        open_requests += _send(connection, requests)
    while open_requests:
        for key, _ in selector.select(5.0):
            waiting: _Connection = key.data
            waiting.buffer += waiting.socket.recv(65536)
            answer = _complete(waiting.buffer)
            if answer is None:
                continue
            now = time.perf_counter()
            latencies.append(now - waiting.sent_at)
            answers.append(answer)
            waiting.buffer = b""
            open_requests -= 1
            if now < end:
                open_requests += _send(waiting, requests)
    elapsed = time.perf_counter() - started
    for connection in connections:
        connection.socket.close()
    return {"elapsed": elapsed, "latencies": latencies, "answers": [_read(answer) for answer in answers]}


def _requests(load: Load) -> Any:
    head = f"Host: localhost\r\nAuthorization: Bearer {load.token}\r\n"
    number = load.first
    if load.kind == "release":
        for path in load.paths:
            yield f"DELETE {path} HTTP/1.1\r\n{head}\r\n".encode()
        return
    while True:
        interface = load.interfaces[number % len(load.interfaces)]
        if load.kind == "device":
            path, body = "devices", f'{{"macs":["02{number:010x}"],"interface":"{interface}"}}'
        else:
            path, body = "reservations", f'{{"interface":"{interface}","count":256}}'
        number += 1
        yield (
            f"POST /api/v1/{path}?wait=0 HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def _send(connection: _Connection, requests: Any) -> int:
    request = next(requests, None)
    if request is None:
        return 0
    connection.sent_at = time.perf_counter()
    connection.socket.sendall(request)
    return 1


def _complete(buffer: bytes) -> bytes | None:
    """The whole answer, once it is there."""
    head, separator, body = buffer.partition(b"\r\n\r\n")
    if not separator:
        return None
    at = head.lower().find(b"content-length: ")
    length = 0 if at < 0 else int(head[at + 16 :].split(b"\r\n", 1)[0])
    return buffer if len(body) >= length else None


def _read(answer: bytes) -> list[Any]:
    """`[status, [[reservation, address, path that releases it], …]]`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12])
    if status != 201:
        return [status, body.decode(errors="replace")[:500] if status not in (202, 204) else []]
    content = json.loads(body)
    rows = content.get("reservations", [content])
    path = f"/api/v1/devices/{content['id']}" if "reservations" in content and "id" in content else None
    return [status, [[row["id"], row["address"], path or f"/api/v1/reservations/{row['id']}"] for row in rows]]


def arguments_of(load: Load) -> str:
    """What the process reads."""
    return json.dumps(asdict(load))


if __name__ == "__main__":
    json.dump(run(Load(**json.load(sys.stdin))), sys.stdout)
