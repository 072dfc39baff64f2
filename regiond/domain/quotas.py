"""How many user reservations accounts may have at a time: limits, and what a batch uses of them.

Only `user` reservations count: nodes and devices are made by admins. One that expired counts until it is released.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from regiond.domain import errors
from regiond.domain.facts import QuotaFacts, SubnetFacts
from regiond.domain.mutations import Claim, Step
from regiond.domain.reservations import Kind

_EVERYWHERE = None


class Quotas:
    """The limits of the accounts that have any, and their use so far, members of this batch included."""

    def __init__(self, facts: Mapping[int, QuotaFacts]) -> None:
        self._facts = facts
        self._used: Counter[tuple[int, int | None]] = Counter()
        for account, quota in facts.items():
            self._used[account, _EVERYWHERE] = quota.used
            self._used.update({(account, subnet): used for subnet, used in quota.used_on.items()})

    def check(self, steps: Iterable[Step], subnets: Mapping[int, SubnetFacts]) -> None:
        """Whether all user claims among the steps of one mutation fit. Raises QuotaExceeded."""
        if not self._facts:
            return
        wanted: Counter[tuple[int, int]] = Counter()
        names: dict[int, str] = {}
        for step in steps:
            if isinstance(step, Claim) and step.kind is Kind.USER and step.owner in self._facts:
                wanted[step.owner, step.subnet] += step.count
                names[step.owner] = step.owner_name
        for (account, subnet), count in wanted.items():
            where = subnets[subnet].network.cidr if subnet in subnets else "the subnet"
            self._check("subnet", account, subnet, self._facts[account].limit_per_subnet, count, names, f" on {where}")
        for account, name in names.items():
            total = sum(count for (owner, _), count in wanted.items() if owner == account)
            self._check("account", account, _EVERYWHERE, self._facts[account].limit, total, {account: name}, "")

    def count(self, account: int, subnet: int, change: int) -> None:
        """One reservation more or less."""
        self._used[account, _EVERYWHERE] += change
        self._used[account, subnet] += change

    def _check(
        self,
        scope: str,
        account: int,
        subnet: int | None,
        limit: int | None,
        wanted: int,
        names: Mapping[int, str],
        where: str,
    ) -> None:
        used = self._used[account, subnet]
        if limit is not None and used + wanted > limit:
            raise errors.QuotaExceeded(
                f"account {names[account]} may have {limit} user reservations{where} and has {used}: "
                f"{wanted} more {'is' if wanted == 1 else 'are'} too many",
                scope=scope,
                limit=limit,
                used=used,
                wanted=wanted,
            )
