"""What `storage.recovery.RecoveryStore` does to the tables, in memory: the same decisions, the same rows.

`tests/regiond/storage/test_recovery_on_postgres.py` keeps this fake true.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.ids import NewId, Prefix, parse_id
from regiond.domain.networks import network
from regiond.domain.recovery import Candidate, FindingKind, Occupant, Settlement, settle
from regiond.storage.batch_changes import to_signed
from regiond.storage.recovery import LOST_BEATS, LOST_EPOCHS, Evidence
from regiond.storage.settling import LOCAL_ACCOUNT, Settled, reservation_row
from tests.fakes.tables import NO_VALUES, Row, Tables

HOLDING = ("serving", "draining")


class RecoveryTables:
    """See the module. Histories are numbered with `new_id`, so that none comes twice, also after a restore."""

    def __init__(self, tables: Tables, new_id: NewId) -> None:
        self.tables = tables
        self._new_id = new_id

    # ---- beginning and ending ----

    def begin(self, reason: str, of_history: str | None = None, *, anew: bool = False) -> str | None:
        tables = self.tables
        if (tables.recovering and not anew) or of_history not in (None, tables.history):
            return None
        tables.former_histories.add(tables.history)
        tables.history, tables.recovering = f"history-{self._new_id()}", True
        tables.evidence.clear()
        tables.beats = {regiond: beats + LOST_BEATS for regiond, beats in tables.beats.items()}
        tables.unheard = set(tables.clusters)
        for cluster in tables.clusters:
            tables.epochs[cluster] = tables.epochs.get(cluster, 0) + LOST_EPOCHS
        for row in tables.deliveries.values():
            if row["role"] in HOLDING:
                row.update(accepted_generation=0, applied_generation=0, error=None, since=tables.now.isoformat())
        for row in tables.subnets.values():
            row.update(recovering=True, made_since=False, fork_at=tables.now.isoformat(), evidence_generation=None)
            row["fork_generation"] = row["generation"]
        return tables.history

    def finish(self) -> str | None:
        if not self.tables.recovering or any(row["recovering"] for row in self.tables.subnets.values()):
            return None
        self.tables.recovering = False
        return self.tables.history

    def end_waiting(self) -> None:
        """By force."""
        for cluster in self.tables.unheard:
            for subnet in self.may_have(cluster):
                if self.tables.subnets[subnet]["recovering"]:
                    self._find(FindingKind.GIVEN_UP, subnet, None)
        self.tables.unheard.clear()

    # ---- what clusters hand up ----

    def hearing(self, cluster: int, history: str) -> None:
        self.tables.unheard.add(cluster)
        self.tables.former_histories.add(history)

    def knows(self, history: str) -> bool:
        return history in self.tables.former_histories

    def generation(self, subnet: int) -> int | None:
        return self.tables.subnets[subnet]["generation"] if subnet in self.tables.subnets else None

    def take(self, evidence: Evidence) -> None:
        number = parse_id(Prefix.SUBNET, evidence.name)
        same = [subnet for subnet, row in self.tables.subnets.items() if row["cidr"] == evidence.cidr]
        self.tables.evidence[evidence.cluster, evidence.name] = {
            "cluster": evidence.cluster,
            "name": evidence.name,
            "subnet": number if number in same else next(iter(same), None),
            "cidr": evidence.cidr,
            "accepted": evidence.accepted_generation,
            "applied": evidence.applied_generation,
            "complete": False,
            "settled": False,
            "maps": {},
            "former": {},
        }

    def add_maps(self, cluster: int, name: str, host_maps: Sequence[HostMap], *, former: bool = False) -> None:
        row = self.tables.evidence[cluster, name]
        for host_map in host_maps:
            key = (host_map.identifier.kind.value, host_map.identifier.value.hex())
            one = {"address": host_map.address, "hostname": host_map.hostname}
            if former:
                row["former"].setdefault((*key, host_map.address), one)
            else:
                row["maps"].setdefault(key, one)

    def complete(self, cluster: int, name: str) -> None:
        row = self.tables.evidence[cluster, name]
        row["complete"] = True
        subnet = row["subnet"]
        if subnet is None:
            self._find(FindingKind.UNKNOWN_NETWORK, None, None)
        elif parse_id(Prefix.SUBNET, name) == subnet:
            known = self.tables.deliveries.get((subnet, cluster))
            if known is None:
                self.tables.add_delivery(subnet, cluster, "draining")
            elif known["role"] == "former":
                known.update(role="draining", since=self.tables.now.isoformat())

    def drop(self, cluster: int, name: str) -> None:
        self.tables.evidence.pop((cluster, name), None)

    def contradictions(self, cluster: int, name: str) -> int:
        row = self.tables.evidence.get((cluster, name))
        if row is None or row["subnet"] is None:
            return 0
        horizon = self.tables.subnets[row["subnet"]].get("horizon", 0)
        count = 0
        for key, one in row["maps"].items():
            known = self.tables.maps.get((row["subnet"], *key))
            if known is None:
                count += row["accepted"] >= horizon
            elif known["generation"] <= row["accepted"]:
                count += known["removed"] or known["address"] != one["address"]
        return count

    def heard(self, cluster: int) -> None:
        self.tables.unheard.discard(cluster)

    def waits_for(self, cluster: int) -> bool:
        return cluster in self.tables.unheard

    def may_have(self, cluster: int) -> list[int]:
        return [subnet for subnet in sorted(self.tables.subnets) if cluster in self._may_have(subnet)]

    # ---- settling ----

    def to_settle(self) -> list[int]:
        due = [subnet for subnet, row in self.tables.subnets.items() if row["recovering"] and not self._waits(subnet)]
        late = {
            row["subnet"]
            for row in self._evidence()
            if row["subnet"] is not None and not self.tables.subnets[row["subnet"]]["recovering"]
        }
        return [*due, *sorted(late)]

    def settle(self, subnet: int) -> Settled | None:
        tables = self.tables
        known = tables.subnets.get(subnet)
        if known is None:
            return None
        for row in tables.evidence.values():
            if row["subnet"] is None and row["cidr"] == known["cidr"]:
                row["subnet"] = subnet
        evidence = [row for row in self._evidence() if row["subnet"] == subnet]
        recovering = known["recovering"]
        if (recovering and self._waits(subnet)) or (not recovering and not evidence):
            return None
        seen = max((max(row["accepted"], row["applied"]) for row in evidence), default=0)
        newest = max((row["accepted"] for row in evidence), default=None)
        generation = max(known["generation"], seen) + 1 if recovering else known["generation"] + 1
        settled = Settled(subnet, known["cidr"], generation)
        releasing = [
            row for (of, _), row in tables.reservations.items() if of == subnet and row["status"] == "releasing"
        ]
        if recovering:
            for row in releasing:
                row.update(release_generation=generation, confirmed_at=None, free_at=None)
        if newest is not None:
            before = known["evidence_generation"]
            leading = newest if before is None or newest > before else None
            self._settle_evidence(settled, evidence, leading)
            if leading is not None and recovering:
                self._doubt(settled, evidence, leading)
            known["evidence_generation"] = newest if before is None else max(newest, before)
        if recovering:
            self._confirm_unheld(subnet)
        elif not settled.counts:
            settled.generation = known["generation"]
        held = [row for row in tables.maps.values() if row["subnet"] == subnet and not row["removed"]]
        digest = digest_of(HostMap(_identifier(row), row["address"], row["hostname"]) for row in held)
        known.update(generation=settled.generation, digest=to_signed(digest), recovering=False)
        for row in evidence:
            row["settled"] = True
        tables.rebuild_free_ranges(subnet)
        return settled

    def _confirm_unheld(self, subnet: int) -> None:
        """Where nobody is a holder nobody will confirm."""
        tables = self.tables
        if any(of == subnet and row["role"] in HOLDING for (of, _), row in tables.deliveries.items()):
            return
        free_at = tables.now + timedelta(seconds=tables.subnets[subnet]["hold"])
        for (of, _), row in tables.reservations.items():
            if of == subnet and row["status"] == "releasing" and row["confirmed_at"] is None:
                row.update(confirmed_at=tables.now.isoformat(), free_at=free_at.isoformat())

    def _waits(self, subnet: int) -> bool:
        return bool(self._may_have(subnet) & self.tables.unheard)

    def _may_have(self, subnet: int) -> set[int]:
        """The clusters that are there, or had it once; of what was made since the recovery began, anybody."""
        row = self.tables.subnets[subnet]
        if self.tables.recovering and row["recovering"] and row["made_since"]:
            return set(self.tables.clusters)
        there = {
            row["cluster"] for row in self.tables.interfaces.values() if row["subnet"] == subnet and row["present"]
        }
        return there | {cluster for of, cluster in self.tables.deliveries if of == subnet}

    def _evidence(self) -> list[Row]:
        return [row for row in self.tables.evidence.values() if row["complete"] and not row["settled"]]

    def _settle_evidence(self, settled: Settled, evidence: Sequence[Row], newest: int | None) -> None:
        spare = self._new_id()
        owner = next((number for number, name in self.tables.accounts.items() if name == LOCAL_ACCOUNT), spare)
        self.tables.accounts[owner] = LOCAL_ACCOUNT
        candidates = sorted(self._candidates(settled.subnet, evidence, newest), key=_order)
        if candidates:
            self._write(settled, settle(candidates), owner)

    def _candidates(self, subnet: int, evidence: Sequence[Row], newest: int | None) -> Iterator[Candidate]:
        tables = self.tables
        net = network(tables.subnets[subnet]["cidr"])
        for row in evidence:
            held = [(*key, False, one) for key, one in row["maps"].items()]
            gone = [(kind, value, True, one) for (kind, value, _), one in row["former"].items()]
            for kind, value, former, one in [*held, *gone]:
                known = tables.maps.get((subnet, kind, value))
                differs = known is None or known["removed"] or known["address"] != one["address"]
                if not differs:
                    continue
                if not net.first_usable <= address_to_int(one["address"])[1] <= net.last_usable:
                    continue
                yield Candidate(
                    cluster=row["cluster"],
                    cluster_name=tables.clusters[row["cluster"]],
                    identifier=Identifier(IdentifierKind(kind), bytes.fromhex(value)),
                    address=one["address"],
                    hostname=one["hostname"],
                    accepted=row["accepted"],
                    newest=row["accepted"] == newest,
                    known_address=None if known is None else known["address"],
                    known_removed=known is not None and known["removed"],
                    known_generation=None if known is None else known["generation"],
                    known_reservation=None if known is None else known["reservation"],
                    occupant=self._occupant(subnet, row["accepted"], one["address"]),
                    former=former,
                    beyond=row["accepted"] > tables.subnets[subnet].get("fork_generation", row["accepted"]),
                )

    def _occupant(self, subnet: int, accepted: int, address: str) -> Occupant | None:
        held = self.tables.reservations.get((subnet, address_to_int(address)[1]))
        if held is None:
            return None
        fork_at = self.tables.subnets[subnet]["fork_at"]
        before = fork_at is not None and datetime.fromisoformat(held["created"]) <= datetime.fromisoformat(fork_at)
        confirmed = any(
            row["reservation"] == held["id"]
            and not row["removed"]
            and evidence["maps"].get((row["kind"], row["identifier"]), {}).get("address") == address
            for row in self.tables.maps.values()
            for evidence in self.tables.evidence.values()
            if evidence["subnet"] == subnet and evidence["complete"] and evidence["accepted"] >= accepted
        )
        active = held["status"] == "active"
        return Occupant(held["id"], held["kind"], active, held["map_generation"], before, confirmed)

    def _write(self, settled: Settled, decided: Settlement, owner: int) -> None:
        tables, subnet = self.tables, settled.subnet
        ids = {address: self._new_id() for address in decided.recovered}
        for made in decided.recovered.values():
            if made.displaced is not None:
                self._displace(settled, made.displaced.reservation)
        for address, made in decided.recovered.items():
            resting = made.resting
            row = {
                **NO_VALUES,
                "alias": None,
                **reservation_row(ids[address], made),
                "subnet": subnet,
                "cidr": tables.subnets[subnet]["cidr"],
                "vrf": "default",
                "kind": "recovered",
                "owner": owner,
                "owner_name": LOCAL_ACCOUNT,
                "map_generation": settled.generation,
                "release_generation": settled.generation if resting else None,
                "created": tables.now.isoformat(),
            }
            tables.reservations[subnet, address_to_int(address)[1]] = row
            for identifier, hostname in made.maps.items():
                self._put_map(settled, HostMap(identifier, address, hostname), ids[address])
        for joined in decided.joined:
            self._put_map(settled, HostMap(joined.identifier, joined.address, joined.hostname), joined.reservation)
            held = tables.reservations[subnet, address_to_int(joined.address)[1]]
            if joined.identifier.kind is IdentifierKind.MAC and joined.identifier.text not in held["macs"]:
                held["macs"] = [*held["macs"], joined.identifier.text]
        for (of, _), held in tables.reservations.items():
            bereft = of == subnet and held["id"] in decided.bereft and held["status"] == "active"
            if bereft and not self._maps_of(held["id"]):
                held.update(status="releasing", release_generation=settled.generation, confirmed_at=None, free_at=None)
        for finding in decided.findings:
            self._find(finding.kind, subnet, finding.address)
            settled.add(finding.kind.value, 1)

    def _maps_of(self, reservation: int) -> list[Row]:
        return [row for row in self.tables.maps.values() if row["reservation"] == reservation and not row["removed"]]

    def _displace(self, settled: Settled, reservation: int) -> None:
        tables = self.tables
        for key, held in list(tables.reservations.items()):
            if held["id"] == reservation:
                del tables.reservations[key]
                if held["kind"] == "user":
                    tables.counts[held["owner"], settled.subnet] -= 1
        for row in tables.maps.values():
            if row["reservation"] == reservation and not row["removed"]:
                row.update(removed=True, generation=settled.generation, request_id="recovery")

    def _put_map(self, settled: Settled, host_map: HostMap, reservation: int) -> None:
        kind, value = host_map.identifier.kind.value, host_map.identifier.value.hex()
        self.tables.maps[settled.subnet, kind, value] = {
            "subnet": settled.subnet,
            "kind": kind,
            "identifier": value,
            "address": host_map.address,
            "hostname": host_map.hostname,
            "reservation": reservation,
            "generation": settled.generation,
            "removed": False,
            "request_id": "recovery",
        }

    def _doubt(self, settled: Settled, evidence: Sequence[Row], newest: int) -> None:
        """Reservations of before that the cluster which knows the most has no host map of any more."""
        tables = self.tables
        fork_at = datetime.fromisoformat(tables.subnets[settled.subnet]["fork_at"])
        known = {key for row in evidence if row["accepted"] == newest for key in row["maps"]}
        for (of, _), held in sorted(tables.reservations.items()):
            generation = held["map_generation"]
            if of != settled.subnet or held["status"] != "active" or generation is None or generation > newest:
                continue
            maps = self._maps_of(held["id"])
            missed = not any((row["kind"], row["identifier"]) in known for row in maps)
            if maps and missed and datetime.fromisoformat(held["created"]) <= fork_at:
                self._find(FindingKind.POSSIBLY_RELEASED, of, held["address"])
                settled.add(FindingKind.POSSIBLY_RELEASED.value, 1)

    def _find(self, kind: FindingKind, subnet: int | None, address: str | None) -> None:
        self.tables.findings.append((kind.value, subnet, address))

    # ---- a database that went back ----

    def beat(self, regiond: str) -> tuple[int, str]:
        self.tables.beats[regiond] = self.tables.beats.get(regiond, 0) + 1
        return self.tables.beats[regiond], self.tables.history


def _order(candidate: Candidate) -> tuple[Any, ...]:
    return (
        candidate.former,
        -candidate.accepted,
        candidate.cluster,
        address_to_int(candidate.address),
        candidate.identifier.kind.value,
        candidate.identifier.value,
    )


def _identifier(row: Row) -> Identifier:
    return Identifier(IdentifierKind(row["kind"]), bytes.fromhex(row["identifier"]))
