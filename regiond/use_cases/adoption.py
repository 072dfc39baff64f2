"""First contact, for people: what a site's DHCP server has of its own, and the adoption of its static entries.

Adopting an entry makes a device of it, whose reservation has the same address and the same identifiers. The entry in
the server's own configuration stays: whoever wrote it deletes it, and from then on the host map of ours is in effect.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter

from regiond.domain import errors
from regiond.domain.first_contact import Adoption, AdoptionResult, ContactView, ForeignEntry, adoption_of
from regiond.domain.ids import NewId, Prefix
from regiond.domain.mutations import Claim, Mutation, NewDevice
from regiond.domain.reservations import Kind
from regiond.storage.first_contact import FirstContactStore
from regiond.storage.reads import Reads
from regiond.storage.writer import Writer
from regiond.use_cases import inputs
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.owners import owner_named
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.together import together

MAX_ENTRIES: Final = 500

_RESULTS: Final = TypeAdapter(list[AdoptionResult])


class Adoptions:
    """See the module. All of it is for admins: static entries tell who has which address."""

    def __init__(
        self, store: FirstContactStore, inventory: Inventory, reads: Reads, writer: Writer, new_id: NewId
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._reads = reads
        self._writer = writer
        self._new_id = new_id

    async def contact(self, context: RequestContext, cluster: str) -> ContactView:
        """Raises NotFound."""
        require_admin(context)
        return await self._store.contact(await self._cluster(cluster))

    async def entries(
        self, context: RequestContext, cluster: str, *, subnet: str | None, limit: int, after: str | None
    ) -> Sequence[ForeignEntry]:
        """The cluster's static entries that are not ours, on one subnet or on all."""
        require_admin(context)
        return await self._store.entries(
            await self._cluster(cluster),
            subnet=None if subnet is None else await self._inventory.subnet_id(subnet),
            limit=limit,
            after=inputs.optional_id(Prefix.FOREIGN_ENTRY, after, "after"),
        )

    async def adopt(
        self, context: RequestContext, cluster: str, *, entries: Sequence[str], owner: str | None
    ) -> Sequence[AdoptionResult]:
        """Make a device of each of these entries, where nothing stands in the way; each succeeds or fails alone.

        An entry that was adopted before is done: calling this again changes nothing.
        """
        require_admin(context)
        if (first := await self._store.answered(context.change)) is not None:
            return _RESULTS.validate_json(first)
        results = await self._adopt_all(context, cluster, entries, owner)
        await self._store.keep_answer(context.change, _RESULTS.dump_json(results).decode())
        return results

    async def _adopt_all(
        self, context: RequestContext, cluster: str, entries: Sequence[str], owner: str | None
    ) -> list[AdoptionResult]:
        if not 1 <= len(entries) <= MAX_ENTRIES:
            raise errors.InvalidRequest("/entries", f"1 to {MAX_ENTRIES} ids")
        wanted = [inputs.known_id(Prefix.FOREIGN_ENTRY, entry) for entry in entries]
        account, name = await owner_named(self._reads, context, owner)
        found = await self._store.entries(await self._cluster(cluster), only=wanted, limit=MAX_ENTRIES)
        known = {foreign.id: foreign for foreign in found}
        for number, text in zip(wanted, entries, strict=True):
            if number not in known:
                raise errors.NotFound(f"the cluster does not report a static entry {text[:64]} (any more)")

        return await together(self._adopt(context, known[number], account, name) for number in dict.fromkeys(wanted))

    async def _adopt(
        self, context: RequestContext, foreign: ForeignEntry, owner: int, owner_name: str
    ) -> AdoptionResult:
        adoption, reason = adoption_of(foreign)
        if adoption is not Adoption.POSSIBLE:
            held = None if foreign.holder is None else foreign.holder.id
            return AdoptionResult(foreign.id, adoption, reason, held if adoption is Adoption.DONE else None)
        assert foreign.subnet is not None
        entry = foreign.entry
        comment = f"adopted from the DHCP server of {foreign.cluster_name}"
        claim = Claim(
            self._new_id(),
            Kind.DEVICE,
            foreign.subnet,
            owner,
            owner_name,
            address=entry.address,
            identifiers=entry.identifiers,
            hostname=entry.hostname,
            device=NewDevice(self._new_id(), entry.hostname, comment),
            comment=comment,
            adopts=True,
        )
        try:
            # Without the request's idempotency key, which stands for all entries: an adoption is idempotent by itself.
            outcome = await self._writer.submit(Mutation(context.caller.actor, (claim,), context.request_id))
        except errors.DomainError as error:
            return AdoptionResult(foreign.id, Adoption.CONFLICT, error.detail, None)
        return AdoptionResult(foreign.id, Adoption.DONE, None, outcome.reservations[0].id)

    async def _cluster(self, cluster: str) -> int:
        return (await self._inventory.cluster(cluster)).id
