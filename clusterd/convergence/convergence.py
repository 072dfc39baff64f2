"""Make the DHCP server's host maps equal to the accepted ones, and go on until they are.

# Note [Convergence]
* Durable first: a change is on disk before it is answered and before the server hears of it.
* One apply at a time; what arrives meanwhile joins the next, over all subnets. There is no timer in between, except
  for changes that keep the server from answering (SIGHUP, restart): these wait for its pause, and others go before.
* A subnet's applied generation advances only to what was accepted when the input of the apply was taken, and not
  while one of its changes waits, or the server keeps a host map in its network that it was told to remove.
* At start, after every error and every few minutes the whole sets are compared: what an interrupted apply left
  behind, and what somebody else changed, is repaired by the same code.
* Refused by the server as a whole: the states say so in the server's own words, and it is tried again with
  back-off. Refused for one host map: that one is reported, the others go on.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from clusterd.convergence.acceptance import Accepted, Origin, SubnetRecord
from clusterd.convergence.alarm import Alarm
from clusterd.convergence.log import ConvergenceLog, Told, drift_of, lines_of_changes, lines_of_comparison, told
from clusterd.convergence.plan import Key, Plan, Transition, overlapping, plan_changes, plan_whole
from clusterd.convergence.refused import RefusedHostMaps
from clusterd.convergence.server_changes import ServerChanges
from clusterd.convergence.turns import Turn, take_turn
from clusterd.convergence.work import Forgetting, Work
from clusterd.dhcp.backend import Backend, BackendError, Rejection
from clusterd.dhcp.host_system import RunInThread
from clusterd.host_maps.schema import StoreFailed
from clusterd.host_maps.states import HostMapStates, Report, host_map_state
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.values import HostMap, Identifier
from clusterd.standing import Standing

COMPARE_INTERVAL_SECONDS = 300.0
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0
MAX_REMEMBERED_CHANGES = 10_000

STOPPING = "clusterd is stopping"


class Convergence:
    """The driver in front of one DHCP server; see Note [Convergence].

    `run_in_thread` runs the store's blocking calls, one after the other in the order given. `jitter` answers
    numbers from 0 to 1.
    """

    _log = Logger()

    def __init__(
        self,
        store: HostMapStore,
        backend: Backend,
        clock: IReactorTime,
        run_in_thread: RunInThread,
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._backend = backend
        self._run_in_thread = run_in_thread
        self._jitter = jitter
        self._states = HostMapStates(clock)
        self._changes_log = ConvergenceLog()
        self._server = ServerChanges(backend)
        self._refused = RefusedHostMaps(self._changes_log)
        self._session: Origin | None = None
        self._records: dict[str, SubnetRecord] = {}
        self._pending: dict[Key, Transition] = {}
        self._news = False
        self._compare = True
        self._forgetting: dict[str, Forgetting] = {}
        self._error: str | None = None
        self._failures = 0
        self._retry = Alarm(clock, self._kick)
        self._pause = Alarm(clock, self._go_on)
        self._next_compare = Alarm(clock, self._compare_now)
        self._running = False
        self._working = False
        self._idle: list[Deferred[None]] = []

    # ---- life ----

    def start(self) -> None:
        """Read what is held, on the spot, and begin with a comparison of the whole sets. Raises StoreFailed."""
        records = self._store.subnets()
        self._records = {record.subnet: record for record in records if not record.forgetting}
        self._forgetting = {record.subnet: Forgetting(record.cidr) for record in records if record.forgetting}
        self._running = True
        self._next_compare.set_in(COMPARE_INTERVAL_SECONDS)
        self._kick()

    async def stop(self) -> None:
        """Finish the apply in flight and begin no other."""
        self._running = False
        for alarm in (self._retry, self._pause, self._next_compare):
            alarm.clear()
        self.disconnected()
        if self._working:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        for forgetting in self._forgetting.values():
            forgetting.fail(STOPPING)

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        records = self._records.values()
        pending = sum(record.applied_generation < record.accepted_generation for record in records)
        held = sum(record.host_maps for record in records)
        return Standing(len(records), pending, held, self._refused.count, self._failures)

    # ---- what the region causes ----

    def connected(self, session: Origin, report: Report) -> None:
        """A region registered this cluster: tell it the state of what is held from it."""
        self._session = session
        former = [record for record in self._records.values() if record.origin != session]
        for record in former:
            self._states.drop(record.subnet)
        if former:
            self._log.warn(
                "{count} subnets from another region or history stay served until the region replaces them: {cidrs}",
                event="host-map-store.former-origin",
                count=len(former),
                cidrs=[record.cidr for record in former[:100]],
                region=session.region,
                history=session.history,
            )
        self._show_states(self._records)
        self._states.connected(report)

    def disconnected(self) -> None:
        """The region is away: what is held stays served."""
        self._session = None
        self._states.disconnected()

    def note_accepted(self, accepted: Accepted, request_ids: Callable[[Identifier], tuple[str, ...]]) -> None:
        """A change is on disk: bring it to the server. Called in the order in which changes were stored."""
        record = accepted.record
        for subnet in accepted.dropped:
            self._drop(subnet)
            self._forgetting.pop(subnet, Forgetting(None)).fail("another subnet took its place")
        self._forgetting.pop(record.subnet, Forgetting(None)).fail("the subnet was given to this cluster again")
        known = self._records.get(record.subnet)
        self._records[record.subnet] = record
        self._news = True
        if not accepted.complete or known is None or known.cidr != record.cidr:
            self._compare = True
        for change in accepted.changes:
            ids = request_ids(change.identifier)
            self._remember(
                (record.subnet, change.identifier),
                Transition(change.before, change.after, record.accepted_generation, ids),
            )
        if self._error is not None:
            self._show_states([record.subnet])  # it waits for a server that refuses; otherwise soon told as applied
        self._kick()

    async def forget(self, subnet: str, cidr: str | None) -> None:
        """A subnet left the disk: returns when its host maps have left the server. Raises ServerRefused."""
        self._drop(subnet)
        forgetting = self._forgetting.setdefault(subnet, Forgetting(None))
        forgetting.cidr = forgetting.cidr or cidr
        gone: Deferred[None] = Deferred()
        forgetting.waiting.append(gone)
        self._compare = True
        if not self._running or self._retry.is_set:
            # It will be done with the next attempt; whoever asked may ask again.
            forgetting.fail(self._error or STOPPING)
        self._kick()
        await gone

    def _drop(self, subnet: str) -> None:
        self._records.pop(subnet, None)
        self._refused.drop(subnet)
        self._states.drop(subnet)
        self._pending = {key: change for key, change in self._pending.items() if key[0] != subnet}

    def _remember(self, key: Key, change: Transition) -> None:
        earlier = self._pending.get(key)
        self._pending[key] = change if earlier is None else earlier.then(change)

    # ---- the loop ----

    def _kick(self) -> None:
        if not self._working and self._may_work():
            self._working = True
            Deferred.fromCoroutine(self._work())

    def _may_work(self) -> bool:
        return self._running and not self._retry.is_set and (self._compare or self._news)

    async def _work(self) -> None:
        while self._may_work():
            await self._work_once()
        self._working = False
        waiting, self._idle = self._idle, []
        for idle in waiting:
            idle.callback(None)

    async def _work_once(self) -> None:
        work: Work | None = None
        try:
            work = self._take()
            if work.whole:
                plan, former = await self._plan_whole(work)
                work = self._joined(work)
                ended = await self._repair(work, plan, former)
            else:
                ended = await self._apply(work)
            await self._succeeded(work, ended)
        except (BackendError, StoreFailed) as error:
            self._failed(work, str(error))
        except Exception:
            # Also where nothing was taken yet: what is noted stays, and the comparison that follows asks for no pause.
            self._log.failure("applying host maps failed", event="host-maps.failed-here")
            self._failed(work, "clusterd itself failed: see its log")

    def _take(self) -> Work:
        whole = self._compare or not self._changes_suffice()
        turn = Turn(self._pending, {}) if whole else take_turn(self._pending, self._pause_for)
        forgetting = dict(self._forgetting) if whole else {}
        work = Work(whole, turn.due, dict(self._records), forgetting, turn.waiting_subnets)
        self._pending, self._compare, self._news = turn.waiting, False, False
        self._pause.clear()
        if turn.waiting:
            self._pause.set_in(turn.seconds)
        return work

    def _pause_for(self, change: Transition) -> float:
        if change.before == change.after:
            return 0.0
        removed = () if change.before is None else (change.before,)
        added = () if change.after is None else (change.after,)
        return self._backend.pause(removed, added)

    def _go_on(self) -> None:
        self._news = True
        self._kick()

    def _joined(self, work: Work) -> Work:
        """The work with what was noted while its plan was made: the store's answers come in order, so the plan has it.

        Left for the next apply it would be joined with what comes then, and a host map that came and went would look as
        if it had never been, while this apply gives it to the server.
        """
        transitions = dict(work.transitions)
        for key, change in self._pending.items():
            earlier = transitions.get(key)
            transitions[key] = change if earlier is None else earlier.then(change)
        self._pending, self._news = {}, False
        return replace(work, transitions=transitions, records=dict(self._records))

    def _changes_suffice(self) -> bool:
        """Whether the changes alone tell what to do; see `plan_changes`."""
        if sum(record.host_maps for record in self._records.values()) > self._backend.capabilities.max_host_maps:
            return False
        among_others = overlapping({subnet: record.cidr for subnet, record in self._records.items()})
        return among_others.isdisjoint(subnet for subnet, _ in self._pending)

    async def _apply(self, work: Work) -> frozenset[HostMap]:
        cidrs = {subnet: record.cidr for subnet, record in work.records.items()}
        plan = plan_changes(work.transitions, cidrs, self._backend.capabilities)
        changed = await self._server.change(plan)
        self._refused.after_changes(plan, changed.rejections, work.transitions, self._records)
        lines = lines_of_changes(work.transitions, work.records)
        self._changes_log.changes(told(lines, _not_done(plan, changed.rejections)))
        return changed.ended

    async def _plan_whole(self, work: Work) -> tuple[Plan, frozenset[HostMap]]:
        """What the comparison found, and the former host maps whose leases may be left."""
        actual = await self._backend.read()
        forgotten = [one.cidr for one in work.forgetting.values() if one.cidr is not None]
        capabilities = self._backend.capabilities
        # Reading and comparing 100,000 host maps takes most of a second: not in the reactor's thread.
        return await self._run_in_thread(
            lambda: (
                plan_whole(self._store.contents(), actual, forgotten, capabilities),
                self._store.former_leases(),
            )
        )

    async def _repair(self, work: Work, plan: Plan, former: frozenset[HostMap]) -> frozenset[HostMap]:
        changed = await self._server.repair(plan, former)
        self._refused.after_comparison(plan, changed.rejections, self._records)
        not_done = _not_done(plan, changed.rejections)

        def compared() -> tuple[Told, dict[str, int]]:
            lines = list(lines_of_comparison(plan, work.transitions, work.records))
            return told(lines, not_done), drift_of(lines, not_done)

        lines, drift = await self._run_in_thread(compared)
        self._changes_log.changes(lines)
        for subnet, count in drift.items():
            self._states.drift_repaired(subnet, count)
        return changed.ended

    # ---- after an apply ----

    async def _succeeded(self, work: Work, ended: frozenset[HostMap]) -> None:
        reached = [
            record
            for subnet, record in work.records.items()
            if subnet in self._records
            and subnet not in work.behind
            and record.applied_generation < record.accepted_generation
            and self._refused.why_held_back(record.cidr) is None
        ]
        touched = {subnet for subnet, _ in work.transitions}
        if reached or ended:
            for moved in await self._run_in_thread(lambda: self._store.record_applied(reached, ended)):
                self._records[moved.subnet] = moved
                touched.add(moved.subnet)
        await self._forgotten(work.forgetting)
        # Not before it is on disk: a disk that refuses is a failure like any other, and tried again more rarely.
        recovered, self._error, self._failures = self._error is not None, None, 0
        if recovered:
            self._log.info("the DHCP server takes host maps again", event="dhcp-server.recovered")
        self._show_states(self._records if work.whole or recovered else touched)
        if self._refused.any_stuck:
            self._next_compare.set_within(LAST_RETRY_SECONDS)

    async def _forgotten(self, forgetting: dict[str, Forgetting]) -> None:
        """What was compared without these subnets is free of them, except for what the server would not let go.

        A subnet that came and went again meanwhile is another `Forgetting`: its turn is the next comparison.
        """
        gone = []
        for subnet, one in forgetting.items():
            words = self._refused.why_held_back(one.cidr)
            if words is not None:
                one.fail(words)
            elif self._forgetting.get(subnet) is one:
                gone.append(subnet)
        if gone:
            await self._run_in_thread(lambda: self._store.drop_forgotten(gone))
        for subnet in gone:
            if self._forgetting.get(subnet) is forgetting[subnet]:
                for waiting in self._forgetting.pop(subnet).waiting:
                    waiting.callback(None)

    def _failed(self, work: Work | None, words: str) -> None:
        self._compare, self._error = True, words
        self._failures += 1
        taken = {} if work is None else work.transitions
        later, self._pending = self._pending, {}
        if len(taken) + len(later) <= MAX_REMEMBERED_CHANGES:  # only for the log: the comparison finds all
            self._pending = {key: change for key, change in taken.items() if key[0] in self._records}
            for key, change in later.items():
                self._remember(key, change)
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 16))
        delay *= 0.75 + self._jitter() / 2
        self._log.warn(
            "the DHCP server's host maps are not as accepted: {reason}; next attempt in {seconds} s",
            event="dhcp-server.failed",
            backend=self._backend.name,
            reason=words,
            seconds=round(delay, 1),
            failures=self._failures,
        )
        for forgetting in self._forgetting.values():
            forgetting.fail(words)
        self._show_states(self._records)
        if self._running:
            self._retry.set_in(delay)

    def _compare_now(self) -> None:
        self._compare = True
        self._next_compare.set_in(COMPARE_INTERVAL_SECONDS)
        self._kick()

    def _show_states(self, subnets: Iterable[str]) -> None:
        behind = any(r.applied_generation < r.accepted_generation for r in self._records.values())
        for subnet in list(subnets):
            record = self._records.get(subnet)
            if record is None or record.origin != self._session:
                continue
            affected = not behind or record.applied_generation < record.accepted_generation
            rejected = self._refused.of_subnet(record)
            error = self._error if affected else None
            self._states.update(
                host_map_state(record.origin.history, subnet, record.applied_generation, rejected, error)
            )


def _not_done(plan: Plan, rejections: Iterable[Rejection]) -> dict[HostMap, str]:
    known = [pair for rejected in plan.unservable.values() for pair in rejected.values()]
    return dict(known) | {rejection.host_map: rejection.reason for rejection in rejections}
