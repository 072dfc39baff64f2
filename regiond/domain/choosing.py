"""The pure choice of an address for a claim: the lowest free one, one that was probed, or the one that is wanted."""

from collections.abc import Callable

from clusterd.protocol.addresses import address_to_int
from regiond.domain import errors
from regiond.domain.facts import Obstacle, SubnetFacts
from regiond.domain.mutations import Claim, Probing
from regiond.domain.overlay import Overlay
from regiond.domain.reservations import Reservation

MAX_CANDIDATES = 256  # for probing, at a time


class Choosing(Overlay):
    """See the module."""

    def choose(self, subnet: SubnetFacts, claim: Claim, taken_back: Reservation | None) -> int:
        if subnet.awaits:
            raise errors.SubnetNotReady(
                f"what the DHCP server of {', '.join(subnet.awaits)} has on {subnet.network.cidr} is not known yet: "
                f"try again in a moment; what is missing is told by regionctl clusters dhcp-server {subnet.awaits[0]}"
            )
        space = self.spaces[subnet.id]
        if claim.address is None:
            if taken_back is not None:
                return address_to_int(taken_back.address)[1]
            if _is_to_be_probed(subnet, claim):
                return self._choose_vetted(subnet, claim)
            while (lowest := space.lowest()) is not None:
                self.take(subnet.id, lowest)
                # A free range that overlaps a reservation is a stale index: skip what is taken.
                if self.reservation_at(subnet, lowest) is None:
                    return lowest
            raise errors.SubnetExhausted(f"no claimable address is left in {subnet.network.cidr}")
        address = self._check_requested(subnet, claim.address, taken_back, claim)
        if taken_back is None and _is_to_be_probed(subnet, claim) and claim.address not in claim.vetted:
            raise errors.Unvetted([claim.address])
        if address in space:
            self.take(subnet.id, address)
        return address

    def _choose_vetted(self, subnet: SubnetFacts, claim: Claim) -> int:
        """The first probed address that is still free. Raises Unvetted with what could be probed, SubnetExhausted."""
        space = self.spaces[subnet.id]
        for text in claim.vetted:
            address = address_to_int(text)[1]
            if address in space:
                self.take(subnet.id, address)
                if self.reservation_at(subnet, address) is None:
                    return address
        free = [address for address in space.first(MAX_CANDIDATES) if self.reservation_at(subnet, address) is None]
        if not free:
            raise errors.SubnetExhausted(f"no claimable address is left in {subnet.network.cidr}")
        raise errors.Unvetted([subnet.network.text(address) for address in free])

    def _check_requested(self, subnet: SubnetFacts, text: str, taken_back: Reservation | None, claim: Claim) -> int:
        network = subnet.network
        family, address = address_to_int(text)
        if family != network.family or address not in network:
            raise errors.AddressOutsideSubnet(f"{text} is not in {network.cidr}")
        if not network.is_usable(address):
            raise errors.AddressNotUsable(f"{text} is the network, broadcast or router anycast address")
        holder = self.reservation_at(subnet, address)
        if holder is not None and (taken_back is None or holder.id != taken_back.id):
            raise errors.AddressTaken(f"{text} is taken", holder=holder)
        obstacle = self.facts.obstacles.get((subnet.id, address))
        adopted = claim.adopts and obstacle is not None and obstacle.kind == "static-entry"
        in_use = obstacle is not None and obstacle.kind == "in-use"
        own = in_use and (claim.over_leases or (obstacle is not None and obstacle.mac in claim.macs))
        if obstacle is not None and holder is None and not adopted and not own:
            raise _obstacle_error(text, obstacle, network.text)
        return address


def _is_to_be_probed(subnet: SubnetFacts, claim: Claim) -> bool:
    """Whoever takes an address by force takes it from whom it is."""
    wanted = claim.probing is Probing.YES or (claim.probing is Probing.DEFAULT and subnet.probes)
    return wanted and not claim.over_leases


def was_probed(subnet: SubnetFacts, claim: Claim, address: int) -> bool | None:
    """None where nobody wanted it. What a client takes back was its own, and is not probed."""
    wanted = _is_to_be_probed(subnet, claim) or claim.probing is Probing.IMPOSSIBLE
    return subnet.network.text(address) in claim.vetted if wanted else None


def _obstacle_error(text: str, obstacle: Obstacle, show: Callable[[int], str]) -> errors.DomainError:
    if obstacle.kind in ("gateway", "controller"):
        owner = "the gateway" if obstacle.kind == "gateway" else "a cluster controller"
        return errors.AddressOfInfrastructure(f"{text} is the address of {owner}")
    if obstacle.kind == "static-entry":
        return errors.AddressOfStaticEntry(
            f"{text} is a static entry of the DHCP server of {obstacle.cluster}, which is not ours: an admin can adopt "
            f"it (regionctl adopt {obstacle.cluster})"
        )
    if obstacle.kind == "in-use":
        return errors.AddressInUse(
            f"cluster {obstacle.cluster} saw somebody use {text}: regionctl in-use list tells who and since when; when "
            "it is not so any more an admin can clear it (regionctl in-use clear)"
        )
    error = errors.AddressInDynamicRange if obstacle.kind == "dynamic" else errors.AddressInReservedRange
    return error(f"{text} lies in the {obstacle.kind} range {show(obstacle.low)} to {show(obstacle.high)}")
