"""The pure decisions about what clusters say: how far they are, what they refuse, that they forgot a subnet."""

from dataclasses import replace

from regiond.domain.mutations import Acknowledge, Confirm, Forgotten
from regiond.domain.overlay import HOLDING_ROLES, Overlay
from regiond.domain.reservations import Delivery


class Acknowledging(Overlay):
    """See the module."""

    def acknowledge(self, step: Acknowledge) -> None:
        before = self.deliveries.get((step.subnet, step.cluster))
        if before is None or before.role not in HOLDING_ROLES or _is_superseded(step.epoch, before):
            return
        accepted, applied = before.accepted_generation, before.applied_generation
        if step.accepted_generation is not None:
            accepted = step.accepted_generation if step.reset else max(accepted, step.accepted_generation)
        if step.applied_generation is not None:
            # A generation that this region has not reached is of another past: it confirms no removal.
            known = step.applied_generation <= self.facts.subnets[step.subnet].generation
            reached = step.applied_generation if known else 0
            applied = reached if step.reset else max(applied, reached)
            # Nothing is applied that was not accepted: the answer that would have said so may have come too late.
            accepted = max(accepted, applied)
        error = step.error if step.rejected is not None or step.reset or step.error is not None else before.error
        after = replace(before, accepted_generation=accepted, applied_generation=applied, error=error)
        if after != before:
            self.put(self.deliveries, (step.subnet, step.cluster), replace(after, since=self.facts.now))
        if step.rejected is not None:
            self.put(self.appended.rejected, (step.subnet, step.cluster), step)
        self.put(self.acknowledged, step.subnet, True)

    def forgotten(self, step: Forgotten) -> None:
        cluster, subnet = step.cluster, step.subnet
        before = self.deliveries.get((subnet, cluster))
        if before is None or before.role not in HOLDING_ROLES or _is_superseded(step.epoch, before):
            return
        # Where it serves again meanwhile, it has to be given everything anew.
        role = "former" if before.role == "draining" else before.role
        gone = replace(before, role=role, accepted_generation=0, applied_generation=0, error=None)
        self.put(self.deliveries, (subnet, cluster), replace(gone, since=self.facts.now))
        self.put(self.appended.rejected, (subnet, cluster), Acknowledge(cluster, subnet, rejected=()))
        self.put(self.acknowledged, subnet, True)

    def confirm(self, step: Confirm) -> None:
        if step.subnet in self.facts.subnets:
            self.put(self.acknowledged, step.subnet, True)


def _is_superseded(epoch: int | None, delivery: Delivery) -> bool:
    """Whether it was said on a connection that is not the cluster's latest: perhaps of another past."""
    return epoch is not None and epoch < delivery.epoch
