"""Stories: what claimants, operators and misfortune do, one event after the other, as data that can be written down.

An event is a name and numbers; `Teller` does it. As text: `claim 0 2 0; run 30 7; kill-cluster 1; run 200 3`.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

Event = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Story:
    """`hold` is the release hold in seconds; with `pair` both clusters serve the first network."""

    hold: int
    pair: bool
    events: tuple[Event, ...]

    def __str__(self) -> str:
        told = [f"hold {self.hold}", f"pair {int(self.pair)}"]
        return "; ".join(told + [" ".join([name, *map(str, numbers)]) for name, numbers in self.events])

    @classmethod
    def read(cls, text: str) -> "Story":
        """The inverse of `str`. Raises ValueError."""
        parts = [part.split() for part in text.split(";")]
        events = [(name, tuple(map(int, numbers))) for name, *numbers in parts]
        (hold, (seconds,)), (pair, (both,)), *rest = events
        if (hold, pair) != ("hold", "pair"):
            raise ValueError("a story begins with: hold SECONDS; pair 0 or 1")
        for name, numbers in rest:
            if name not in EVENTS or len(numbers) != len(EVENTS[name]):
                raise ValueError(f"no event: {name} {numbers}")
        return cls(seconds, bool(both), tuple(rest))


_flag = st.sampled_from([0, 1])
_cluster = st.integers(0, 1)
_network = st.sampled_from([0, 0, 1])
_mac = st.integers(0, 4)
_nth = st.integers(0, 4)
_schedule = st.integers(0, 9999)
_bytes = st.sampled_from([0, 0, 1, 3, 20, 100, 10_000])

# The arguments of each event; how often a name is in the lists below is how often it comes.
EVENTS: dict[str, tuple[st.SearchStrategy[int], ...]] = {
    "claim": (_network, _mac, st.integers(0, 4)),  # identifier; 0: any address, else a certain one
    "claim-for-two": (_network, _mac),  # the identifier and the next one have one address
    "reserve": (_network,),
    "release": (_nth, st.sampled_from([0, 0, 0, 0, 1])),  # the nth from last; by force
    "run": (st.sampled_from([1, 2, 3, 5, 8, 13, 30, 60, 200]), _schedule),
    "pass": (st.sampled_from([1, 1, 2, 5, 20, 45, 70]), st.sampled_from([0, 5, 30, 100]), _schedule),
    "calm": (_schedule,),
    "cut": (_cluster, _bytes, _bytes, _flag, _flag),
    "partition": (_cluster, _flag),
    "stall-network": (_cluster, _flag),
    "kill-cluster": (_cluster,),
    "kill-cluster-at": (_cluster, st.integers(0, 25)),
    "start-cluster": (_cluster,),
    "restart-cluster": (_cluster,),
    "kill-region": (),
    "start-region": (),
    "late-snapshot": (_cluster, _network, st.integers(1, 4)),  # of so many generations ago
    "late-difference": (_cluster, _network, st.integers(1, 4)),
    "late-on-former-connection": (_cluster, _network, st.integers(0, 4), _flag),  # the same there; a whole set
    "lossy-difference": (_cluster, _network),
    "database": (_flag,),
    "database-fails": (st.integers(0, 30), st.sampled_from([1, 1, 2, 5])),  # after so many questions, so many
    "slow-topologies": (_cluster, _flag),
    "slow-server": (_cluster, _flag),
    "slow-thread": (_cluster, _flag),
    "let-server": (_cluster, st.integers(1, 6)),
    "let-thread": (_cluster, st.integers(1, 6)),
    "refuse": (_cluster, st.integers(0, 3)),
    "reject": (_cluster, _mac, _flag),
    "heal-server": (_cluster,),
    "full-disk": (_cluster, _flag),
    "networks": (_cluster, st.integers(0, 3)),
    "confirm-pair": (),
    "unserve": (_cluster, _network),
    "serve": (_cluster, _network),
    "somebody-changes-server": (_cluster, _nth),
    "save-disk": (_cluster,),
    "old-disk": (_cluster,),
    "save-region": (),
    "restore-region": (),
    "end-recovery": (),
}
_OFTEN = (
    "claim",
    "claim",
    "claim",
    "release",
    "release",
    "release",
    "run",
    "run",
    "run",
    "run",
    "pass",
    "pass",
    "calm",
)


def _event(name: str) -> st.SearchStrategy[Event]:
    return st.tuples(st.just(name), st.tuples(*EVENTS[name]))


def _chapter(what: str, one_by_one: str) -> st.SearchStrategy[list[Event]]:
    """One cluster's server or thread is so slow that a story can tell between which of its steps all else happens."""

    def of(cluster: int) -> st.SearchStrategy[list[Event]]:
        let: st.SearchStrategy[Event] = st.tuples(st.just(one_by_one), st.tuples(st.just(cluster), st.integers(1, 4)))
        again: st.SearchStrategy[Event] = st.just(("restart-cluster", (cluster,)))
        meanwhile = st.sampled_from(("claim", "claim", "release", "release", "calm", "calm", "pass")).flatmap(_event)
        inside = st.lists(st.one_of(let, let, meanwhile, meanwhile, meanwhile, again), min_size=3, max_size=10)
        return inside.map(lambda events: [(what, (cluster, 1)), *events, (what, (cluster, 0))])

    return _cluster.flatmap(of)


def _restore() -> st.SearchStrategy[list[Event]]:
    """The region is restored from a backup: what happened since is lost, and more happens while it recovers."""
    lost = ("claim", "claim", "release", "serve", "unserve", "confirm-pair", "partition", "restart-cluster", "calm")
    some: st.SearchStrategy[list[Event]] = st.lists(st.sampled_from(lost).flatmap(_event), min_size=1, max_size=6)
    beats: Event = ("pass", (3, 100, 0))
    seen: st.SearchStrategy[list[Event]] = st.sampled_from([[beats], [beats], []])  # by the witness
    ended: st.SearchStrategy[list[Event]] = st.sampled_from([[], [], [("end-recovery", ())]])
    return st.tuples(some, some, seen, ended).map(
        lambda p: [("save-region", ()), *p[2], *p[0], *p[2], ("restore-region", ()), *p[1], beats, *p[3], beats]
    )


_usual = st.sampled_from(_OFTEN).flatmap(_event)
_any = st.sampled_from(sorted(EVENTS)).flatmap(_event)
_parts = st.one_of(
    _usual.map(lambda event: [event]),
    _usual.map(lambda event: [event]),
    _any.map(lambda event: [event]),
    _any.map(lambda event: [event]),
    _chapter("slow-server", "let-server"),
    _chapter("slow-thread", "let-thread"),
    _restore(),
)
stories = st.builds(
    Story,
    st.sampled_from([0, 0, 5, 30]),
    st.booleans(),
    st.lists(_parts, min_size=3, max_size=30).map(lambda parts: tuple(event for part in parts for event in part)),
)
