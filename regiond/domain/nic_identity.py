"""Which NIC is which after some were renamed: pure.

A NIC is known by its name. By its MAC address it is recognised where that is certain: where exactly one NIC had the
address, of this kind and with this VLAN, and exactly one has it now. A VLAN and a bond have the address of a NIC below
them, and machines exist whose NICs all have one and the same.
"""

from collections.abc import Iterable, Sequence

from clusterd.protocol.values import InterfaceReport

_Hardware = tuple[str, str, int | None]


def renamed_nics(before: Sequence[InterfaceReport], now: Sequence[InterfaceReport]) -> dict[str, str]:
    """The present name by the former one, of each NIC that certainly has another name now."""
    had, has = _names(before), _names(now)
    pairs = ((had[hardware], has.get(hardware, frozenset())) for hardware in had)
    certain = ((*old, *new) for old, new in pairs if len(old) == len(new) == 1)
    return {old: new for old, new in certain if old != new}


def _names(reports: Iterable[InterfaceReport]) -> dict[_Hardware, frozenset[str]]:
    found: dict[_Hardware, set[str]] = {}
    for report in reports:
        if report.mac is not None:
            found.setdefault((report.mac, report.kind.value, report.vlan), set()).add(report.nic)
    return {hardware: frozenset(names) for hardware, names in found.items()}
