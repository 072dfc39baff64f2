"""When dnsmasq may be made to read again, and how long it can be busy with what it has read; pure.

See Note [Two ways to dnsmasq]. A SIGHUP makes dnsmasq deaf while it parses its hosts file and compares its leases with
what it has read; a file in the hosts directory, while it compares. Whatever the rate of changes, SIGHUPs make it deaf
for at most a fifth of the time, and so do files, which take no time at all as long as there are few leases.
"""

from dataclasses import dataclass, field, replace

from clusterd.dhcp.pacing import Pause

SHORTEST_PAUSE_SECONDS = 0.25
PAUSE_PER_PARSE = 4.0
SECONDS_PER_PAIR = 150e-9  # of a lease and a host map, on a machine ten times as slow as the one that was measured
SHORTEST_LEASE_LINE = 40  # octets
SHORTEST_BUSY_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Pacing:
    """The pauses before a SIGHUP and before a file is shown in the directory; the former never ends first."""

    reload: Pause = field(default_factory=lambda: Pause(SHORTEST_PAUSE_SECONDS, PAUSE_PER_PARSE))
    show: Pause = field(default_factory=lambda: Pause(0.0, PAUSE_PER_PARSE))

    def after_reload(self, now: float, parsing: float, comparing: float) -> "Pacing":
        """dnsmasq has read its hosts file, and was deaf for these seconds."""
        compared = self.after_showing(now, comparing)
        return replace(compared, reload=compared.reload.after(now, parsing + comparing))

    def after_showing(self, now: float, comparing: float) -> "Pacing":
        """dnsmasq has read a file of its hosts directory, and was deaf for these seconds."""
        show = self.show.after(now, comparing)
        return Pacing(self.reload.not_before(show.ends), show)


def longest_comparison(lease_octets: int, host_maps: int) -> float:
    """The seconds for which dnsmasq may compare a lease file of this size with its host maps; 0.0: not worth a look."""
    seconds = lease_octets // SHORTEST_LEASE_LINE * host_maps * SECONDS_PER_PAIR
    return seconds if seconds >= SHORTEST_BUSY_SECONDS else 0.0
