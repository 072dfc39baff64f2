"""The HTTP API as a program uses it, with nothing but the standard library."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tests.demo.processes import DemoFailed

BASE: Final = "/api/v1"
_TIMEOUT_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: Any

    def expect(self, *statuses: int) -> "Answer":
        """This answer, when it has one of the statuses. Raises DemoFailed."""
        if self.status not in statuses:
            raise DemoFailed(f"expected status {' or '.join(map(str, statuses))}, got {self.status}: {self.content}")
        return self


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class Api:
    """One region's API, asked by one account. A connection per request: the demonstration makes few."""

    def __init__(self, connect: Callable[[], HTTPConnection], token: str | None) -> None:
        self._connect = connect
        self._token = token

    @classmethod
    def over_tcp(cls, host: str, port: int, token: str) -> "Api":
        """With a bearer token, as programs do."""
        return cls(lambda: HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS), token)

    @classmethod
    def over_socket(cls, path: Path) -> "Api":
        """As the local admin, who is whoever can open the socket."""
        return cls(lambda: _UnixConnection(path), None)

    def get(self, path: str) -> Any:
        """The content of what is there. Raises DemoFailed."""
        return self._ask("GET", path, None).expect(200).content

    def is_welcome(self) -> bool:
        """Whether the token is still good."""
        return self._ask("GET", "/tokens", None).status == 200

    def post(self, path: str, body: object) -> Answer:
        """Whatever the answer is."""
        return self._ask("POST", path, body)

    def delete(self, path: str) -> Answer:
        """Whatever the answer is."""
        return self._ask("DELETE", path, None)

    def _ask(self, method: str, path: str, body: object | None) -> Answer:
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        connection = self._connect()
        try:
            connection.request(method, BASE + path, payload, headers)
            answer = connection.getresponse()
            octets = answer.read()
        except OSError as error:
            raise DemoFailed(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        return Answer(answer.status, json.loads(octets) if octets else None)
