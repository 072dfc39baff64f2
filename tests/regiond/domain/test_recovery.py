"""Settling under any past: nobody loses an address that a cluster serves, and no address has two holders."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.protocol.values import Identifier
from regiond.domain.recovery import Candidate, FindingKind, Occupant, settle

Step = tuple[int, int]  # an identifier and an address; an address that is taken is released instead

_steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14)


def identifier(number: int) -> Identifier:
    return Identifier.mac(f"00:16:3e:00:00:{number:02x}")


@dataclass
class State:
    """Host maps with the generation of their last change; `rows` are by identifier, None is a removal."""

    generation: int = 0
    rows: dict[int, tuple[int | None, int]] = field(default_factory=dict)

    def after(self, steps: list[Step]) -> "State":
        made = State(self.generation, dict(self.rows))
        for who, address in steps:
            holder = made.holder(address)
            made.generation += 1
            if holder is not None:
                made.rows[holder] = None, made.generation
            elif made.rows.get(who, (None, 0))[0] is None:
                made.rows[who] = address, made.generation
            else:
                made.generation -= 1
        return made

    def holder(self, address: int) -> int | None:
        return next((who for who, (at, _) in self.rows.items() if at == address), None)

    @property
    def maps(self) -> dict[int, int]:
        return {who: at for who, (at, _) in self.rows.items() if at is not None}


def candidates(region: State, clusters: list[State], removing: list[set[Step]], backup: int) -> list[Candidate]:
    """As `storage.settling` reads them: what a cluster has, or is `removing`, that the region has not, or otherwise."""
    highest = max(cluster.generation for cluster in clusters)
    made = []
    ordered = sorted(enumerate(clusters), key=lambda each: (-each[1].generation, each[0]))
    held = [(number, cluster, False, set(cluster.maps.items())) for number, cluster in ordered]
    for number, cluster, former, pairs in [*held, *((n, c, True, removing[n]) for n, c in ordered)]:
        for who, address in sorted(pairs, key=lambda each: (each[1], each[0])):
            known = region.rows.get(who)
            if known is not None and known[0] == address:
                continue
            holder = region.holder(address)
            occupant = None
            if holder is not None:
                confirmed = any(
                    other.maps.get(holder) == address for other in clusters if other.generation >= cluster.generation
                )
                occupant = Occupant(100 + address, "device", True, region.rows[holder][1], True, confirmed)
            made.append(
                Candidate(
                    number,
                    f"rack-{number}",
                    identifier(who),
                    f"192.0.2.{address}",
                    None,
                    cluster.generation,
                    cluster.generation == highest,
                    None if known is None or known[0] is None else f"192.0.2.{known[0]}",
                    known is not None and known[0] is None,
                    None if known is None else known[1],
                    None if known is None or known[0] is None else 100 + known[0],
                    occupant,
                    former,
                    cluster.generation > backup,
                )
            )
    return made


@settings(deadline=None, max_examples=300)
@given(before=_steps, lost=_steps, since=_steps, old=st.integers(0, 14))
def test_what_is_served_is_held_by_one_whatever_was_lost(
    before: list[Step], lost: list[Step], since: list[Step], old: int
) -> None:
    backup = State().after(before)
    newest = backup.after(lost)
    region = backup.after(since)  # what the restored region did before anybody noticed
    behind = State().after(before[:old])
    states = [backup.after(lost[:count]) for count in range(len(lost) + 1)]
    removing = {pair for state in states for pair in state.maps.items()} - set(newest.maps.items())
    settled = settle(candidates(region, [newest, behind], [removing, set()], region.generation))

    holders = {f"192.0.2.{at}": {identifier(who)} for who, at in region.maps.items()}
    for address, made in settled.recovered.items():
        assert (made.displaced is not None) == (address in holders), "an address that is taken is taken from somebody"
        if made.displaced is not None and made.resting:
            gone = made.displaced.generation
            assert gone is not None and gone <= newest.generation and not made.displaced.confirmed
        assert made.resting == (not made.maps)
    moved = {one for made in settled.recovered.values() for one in made.maps} | {
        one.identifier for one in settled.joined
    }
    for address, there in holders.items():
        holders[address] = set() if address in settled.recovered else there - moved
    for address, made in settled.recovered.items():
        holders[address] = set(made.maps)
    for one in settled.joined:
        holders[one.address].add(one.identifier)

    at = [who for there in holders.values() for who in there]
    assert len(at) == len(set(at)), "nobody is at two addresses"
    assert all(len(there) <= 1 for there in holders.values()), "no address has two holders"
    told = {finding.address for finding in settled.findings if finding.kind is FindingKind.CONFLICT}
    for who, number in newest.maps.items():
        address = f"192.0.2.{number}"
        changed_since = region.rows.get(who, (None, 0))[1] > newest.generation
        assert identifier(who) in holders.get(address, set()) or address in told or changed_since
        assert address in holders, "it is not free"
    for who, number in removing:
        address = f"192.0.2.{number}"
        known = region.holder(number)
        changed_since = known is not None and region.rows[known][1] > newest.generation
        own = known == who
        assert address in holders, "an address that is being removed is not free"
        later = newest.holder(number)
        handed_on = later is not None and identifier(later) in holders[address]
        nothing_lost = newest.generation <= region.generation
        assert not holders[address] or own or changed_since or handed_on or nothing_lost
