"""A machine that asks a DHCP server for its address without a pause, and knows how long it had to wait."""

import time
from threading import Event, Thread
from types import TracebackType

from tests.lab.dhcp_messages import Kind
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4

_PAUSE_SECONDS = 0.05


class Asker:
    """Comes up again and again as this MAC address, from the start of the `with` block to its end.

    `longest_gap` is the longest time in seconds between two full answers (offer and ACK), `answers` how many there
    were, and `wrong` holds every address that was not the expected one.
    """

    def __init__(self, network: Network, mac: str, address: str) -> None:
        self._client = RawClient4(network)
        self._mac = mac
        self._address = address
        self._ending = Event()
        self._thread = Thread(target=self._ask, name="asker")
        self.longest_gap = 0.0
        self.answers = 0
        self.wrong: list[str] = []

    def __enter__(self) -> "Asker":
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(30)
        self._client.__exit__(kind, error, trace)

    def _ask(self) -> None:
        while not self._ending.is_set():
            answer = self._client.obtain(self._mac)
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - self._last)
            if answer is not None and answer.kind is Kind.ACK:
                self._last = now
                self.answers += 1
                if answer.address != self._address:
                    self.wrong.append(answer.address)
            self._ending.wait(_PAUSE_SECONDS)  # the rate of its questions
