"""A `text/event-stream` (HTML Living Standard, 9.2.6) in pieces as it comes, as events; pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """`name` and `data` as they came; `id` is where to go on after it. A mere place has no data."""

    name: str
    data: str
    id: str


class EventStream:
    """What has come so far of a stream; `last_id` is what a next connection goes on from."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that are whole with this piece."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [event for line in lines if (event := self._line(line.decode().rstrip("\r"))) is not None]

    def _line(self, line: str) -> ServerEvent | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            before = self._fields.get("data") if name == "data" else None
            self._fields[name] = value if before is None else f"{before}\n{value}"
            return None
        fields, self._fields = self._fields, {}
        self.last_id = fields.get("id", self.last_id)
        return ServerEvent(fields.get("event", "message"), fields["data"], self.last_id) if "data" in fields else None
