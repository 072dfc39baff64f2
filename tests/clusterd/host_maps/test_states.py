"""States of host maps as they are reported: whatever a DHCP server said can be sent."""

from clusterd.host_maps.states import host_map_state
from clusterd.protocol.arguments import REJECTED_MAPS
from clusterd.protocol.commands import MAX_ERROR_LENGTH, ReportHostMapState
from clusterd.protocol.values import HostMap, Identifier

MAC = Identifier.mac("00:16:3e:00:00:01")
HOST_MAP = HostMap(MAC, "192.0.2.7")


def test_a_servers_words_are_made_fit_for_the_link() -> None:
    words = "no\0room \udcff" + "x" * 5000
    state = host_map_state("h", "sn", 1, {MAC: (HOST_MAP, words)}, words)
    assert state.error is not None
    assert len(state.error) == MAX_ERROR_LENGTH
    text = dict(ReportHostMapState.arguments)[b"error"]
    assert text.fromString(text.toString(state.error)) == state.error
    (rejected,) = REJECTED_MAPS.fromString(REJECTED_MAPS.toString(state.rejected))
    assert rejected.reason.startswith("no\N{REPLACEMENT CHARACTER}room")
