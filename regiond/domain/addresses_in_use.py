"""Addresses that somebody on the wire uses without a reservation."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class MarkedAddress:
    """A mark that keeps an address from being handed out: who answered a probe, since when, and who saw it last."""

    id: int
    subnet: int
    address: str
    mac: str
    cluster_name: str
    since: datetime
    seen_at: datetime
    expires_at: datetime
