"""Where is asked: a NIC that is on the network."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wire:
    """A NIC of this host; `mac` is None where it is none of Ethernet's."""

    nic: str
    mac: bytes | None
