"""Every command of the link, in two sections: answered by regiond, answered by clusterd.

Rules: every list and text is bounded; every declared error has a code that never changes; an optional argument
that a peer does not know is ignored; a name never changes its meaning. Generations start at 0, "has nothing".
"""

from typing import Any, ClassVar

from twisted.protocols import amp

from clusterd.protocol import errors
from clusterd.protocol.arguments import (
    ADDRESSES,
    ADDRESSES_IN_USE,
    HELD_SUBNETS,
    HOST_MAPS,
    IDENTIFIERS,
    INTERFACES,
    LEASES,
    MAX_PAGE_ROWS,
    REJECTED_MAPS,
    SERVER_ENTRIES,
    SERVER_POOLS,
    TEXTS,
    Digest,
    Number,
    Text,
)
from clusterd.protocol.values import MAX_NIC_NAME_LENGTH

PROTOCOL_VERSION = 1
MAX_ID_LENGTH = 64
MAX_ERROR_LENGTH = 1000
MAX_TOKEN_LENGTH = 128
MAX_PEM_LENGTH = 8192
MAX_PROBE_MILLISECONDS = 5000
MAX_TRANSFER_COUNT = 1_000_000  # host maps, and removals, of one subnet


class Command(amp.Command):
    """The base of every command here: what is missing in a box is an error of the box, not a KeyError."""

    @classmethod
    def parseArguments(cls, box: amp.AmpBox, protocol: Any) -> dict[str, Any]:
        try:
            arguments: dict[str, Any] = super().parseArguments(box, protocol)
        except KeyError as error:
            raise errors.MalformedArgument(f"argument {error} is missing") from error
        return arguments

    @classmethod
    def parseResponse(cls, box: amp.AmpBox, protocol: Any) -> dict[str, Any]:
        try:
            response: dict[str, Any] = super().parseResponse(box, protocol)
        except KeyError as error:
            raise errors.MalformedArgument(f"{error} is missing in the answer") from error
        return response


class Ping(Command):
    """Answered by both: is anybody there? Sent by each side so that a half-open link is noticed."""


# ---- answered by regiond ----


class Register(Command):
    """The first command of every connection: who I am and what I hold.

    `cluster` names the cluster on a plain link only; an authenticated link takes the name from its certificate.
    `history`, `held` and the region that both are of are what the cluster's store says; a cluster with nothing leaves
    `history` and `region` out. `instance` is made anew by each start of clusterd: two that take turns are two hosts
    with one identity.
    `reports_dhcp_server` says that `ReportDhcpServer` follows: until then the region claims no address of a subnet
    that this cluster serves. A cluster that does not know that command does not say so, and is not waited for.
    `endpoints`, where the region has been told them, are where its clusters connect from now on, as `Enrol` has them.
    """

    arguments: ClassVar = [
        (b"protocol_version", Number(65535)),
        (b"software_version", Text(64)),
        (b"hostname", Text(253)),
        (b"cluster", Text(MAX_ID_LENGTH, optional=True)),
        (b"backend", Text(32)),
        (b"history", Text(MAX_ID_LENGTH, optional=True)),
        (b"instance", Text(MAX_ID_LENGTH, optional=True)),
        (b"held", HELD_SUBNETS),
        (b"reports_dhcp_server", Number(1, optional=True)),
        (b"region", Text(MAX_ID_LENGTH, optional=True)),
    ]
    response: ClassVar = [
        (b"region", Text(MAX_ID_LENGTH)),
        (b"history", Text(MAX_ID_LENGTH)),
        (b"cluster", Text(MAX_ID_LENGTH)),
        (b"endpoints", Text(MAX_PEM_LENGTH, optional=True)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.IncompatibleVersion: b"INCOMPATIBLE_VERSION",
        errors.RegistrationRefused: b"REGISTRATION_REFUSED",
    }


class ReportTopology(Command):
    """One page of the whole picture of the controller's interfaces; page `page` of `pages`, counted from 0.

    The region replaces what it knows when the last page of a sequence is there. Sequences rise; an older one
    is ignored.
    """

    arguments: ClassVar = [
        (b"sequence", Number()),
        (b"page", Number(10_000)),
        (b"pages", Number(10_000)),
        (b"interfaces", INTERFACES),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {errors.NotRegistered: b"NOT_REGISTERED"}


class ReportDhcpServer(Command):
    """One page of what the DHCP server has of its own: its pools, and static entries that are not ours.

    Pages and sequences are as in `ReportTopology`. With `error` the server's configuration could not be read: the
    region keeps what it knew, and the rest of the report says nothing. `remarks` tell what was not understood.
    """

    arguments: ClassVar = [
        (b"sequence", Number()),
        (b"page", Number(10_000)),
        (b"pages", Number(10_000)),
        (b"pools", SERVER_POOLS),
        (b"entries", SERVER_ENTRIES),
        (b"remarks", TEXTS),
        (b"error", Text(MAX_ERROR_LENGTH, optional=True)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {errors.NotRegistered: b"NOT_REGISTERED"}


class ReportHostMapState(Command):
    """What the DHCP server has of one subnet: applied up to a generation, and what it would not take.

    `rejected` is the whole list for the subnet, not a difference. `error` is the server's own words when it
    refuses as a whole; then `applied_generation` stays where it was. `drift_repaired` counts the host maps that were
    found not as applied, by somebody else's doing, and were put right since the report before this one.
    """

    arguments: ClassVar = [
        (b"history", Text(MAX_ID_LENGTH)),
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"applied_generation", Number()),
        (b"rejected", REJECTED_MAPS),
        (b"error", Text(MAX_ERROR_LENGTH, optional=True)),
        (b"drift_repaired", Number(optional=True)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.NotRegistered: b"NOT_REGISTERED",
        errors.HistoryMismatch: b"HISTORY_MISMATCH",
    }


class RenewCertificate(Command):
    """A new certificate for the cluster at the other end, in exchange for a certificate signing request (PEM).

    Only the request's key and signature are looked at: the names are the region's. The old one stays good until it
    expires, so that a lost answer does no harm.
    """

    arguments: ClassVar = [(b"request", Text(MAX_PEM_LENGTH))]
    response: ClassVar = [(b"certificate", Text(MAX_PEM_LENGTH)), (b"authority", Text(MAX_PEM_LENGTH))]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.NotRegistered: b"NOT_REGISTERED",
        errors.EnrolmentRefused: b"ENROLMENT_REFUSED",
    }


class Enrol(Command):
    """The only command of the enrolment listener, once per connection: a one-time token and a certificate signing
    request (PEM) for a cluster's first certificate.

    The answer says who the cluster is from now on, and where the region's clusters connect: at most 32 addresses,
    with spaces between them.
    """

    arguments: ClassVar = [(b"token", Text(MAX_TOKEN_LENGTH)), (b"request", Text(MAX_PEM_LENGTH))]
    response: ClassVar = [
        (b"region", Text(MAX_ID_LENGTH)),
        (b"cluster", Text(MAX_ID_LENGTH)),
        (b"name", Text(MAX_ID_LENGTH)),
        (b"certificate", Text(MAX_PEM_LENGTH)),
        (b"authority", Text(MAX_PEM_LENGTH)),
        (b"endpoints", Text(MAX_PEM_LENGTH)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {errors.EnrolmentRefused: b"ENROLMENT_REFUSED"}


# ---- answered by clusterd ----


class ApplyHostMaps(Command):
    """The change of one subnet's host maps from one generation to another; the answer means *accepted*.

    `digest` is of the whole set after the change. `request_ids` name the claims behind it, for the logs: as many
    as there are upserts and removals name them one by one, upserts first; any other number names the change as a
    whole.
    """

    arguments: ClassVar = [
        (b"history", Text(MAX_ID_LENGTH)),
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"cidr", Text(64)),
        (b"from_generation", Number()),
        (b"to_generation", Number()),
        (b"digest", Digest()),
        (b"upserts", HOST_MAPS),
        (b"removals", IDENTIFIERS),
        (b"request_ids", TEXTS),
    ]
    response: ClassVar = [(b"accepted_generation", Number())]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.GenerationMismatch: b"GENERATION_MISMATCH",
        errors.DigestMismatch: b"DIGEST_MISMATCH",
        errors.HistoryMismatch: b"HISTORY_MISMATCH",
        errors.NotStored: b"NOT_STORED",
    }


class BeginTransfer(Command):
    """A change that does not fit in one box. It discards an unfinished transfer of the same subnet.

    Without `from_generation` it is a snapshot: the pages are the whole set and replace what is there.
    """

    arguments: ClassVar = [
        (b"history", Text(MAX_ID_LENGTH)),
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"cidr", Text(64)),
        (b"from_generation", Number(optional=True)),
        (b"to_generation", Number()),
        (b"digest", Digest()),
        (b"count", Number(MAX_TRANSFER_COUNT)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.GenerationMismatch: b"GENERATION_MISMATCH",
        errors.HistoryMismatch: b"HISTORY_MISMATCH",
        errors.SnapshotOlder: b"SNAPSHOT_OLDER",
        errors.NotStored: b"NOT_STORED",
    }


class TransferPage(Command):
    """One page of the transfer that was begun for the subnet, in any order."""

    arguments: ClassVar = [
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"to_generation", Number()),
        (b"upserts", HOST_MAPS),
        (b"removals", IDENTIFIERS),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.UnknownTransfer: b"UNKNOWN_TRANSFER",
        errors.NotStored: b"NOT_STORED",
    }


class CommitTransfer(Command):
    """All pages were sent; the answer means *accepted*, as with `ApplyHostMaps`."""

    arguments: ClassVar = [
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"to_generation", Number()),
    ]
    response: ClassVar = [(b"accepted_generation", Number())]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.UnknownTransfer: b"UNKNOWN_TRANSFER",
        errors.GenerationMismatch: b"GENERATION_MISMATCH",
        errors.DigestMismatch: b"DIGEST_MISMATCH",
        errors.SnapshotOlder: b"SNAPSHOT_OLDER",
        errors.NotStored: b"NOT_STORED",
    }


class ForgetSubnet(Command):
    """Drop every map of the subnet, on disk and in the DHCP server; answered when both are done.

    `cidr` lets a cluster that lost its store still find the subnet's maps in its DHCP server.
    """

    arguments: ClassVar = [
        (b"history", Text(MAX_ID_LENGTH)),
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"cidr", Text(64, optional=True)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.HistoryMismatch: b"HISTORY_MISMATCH",
        errors.NotStored: b"NOT_STORED",
        errors.ServerRefused: b"SERVER_REFUSED",
    }


class UploadHostMaps(Command):
    """Hand up what this cluster has accepted of a subnet from this region, of whatever history, page by page.

    Asked when the cluster knows of a past that the region's database does not. `after` is the last identifier of the
    page before, nothing for the first page; `more` is 1 while there are more pages. Nothing changes here by it.
    A subnet that is being forgotten has none and is at generation 0.
    """

    arguments: ClassVar = [
        (b"subnet", Text(MAX_ID_LENGTH)),
        (b"after", IDENTIFIERS),
    ]
    response: ClassVar = [
        (b"cidr", Text(64)),
        (b"history", Text(MAX_ID_LENGTH)),
        (b"accepted_generation", Number()),
        (b"applied_generation", Number()),
        (b"host_maps", HOST_MAPS),
        (b"more", Number(1)),
    ]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.UnknownSubnet: b"UNKNOWN_SUBNET",
        errors.NotStored: b"NOT_STORED",
    }


class UploadFormerHostMaps(Command):
    """Hand up who had which address of this network by a host map that this cluster accepted the removal of, and that
    its DHCP server may have still: it has not done the removal, or the lease that is left has not ended. Page by page.

    Asked with `UploadHostMaps`, which says the network: that a removal was accepted is known nowhere else when the
    region's database lost it. `after` is the last one of the page before, nothing for the first page. They come without
    names.
    """

    arguments: ClassVar = [
        (b"cidr", Text(64)),
        (b"after", HOST_MAPS),
    ]
    response: ClassVar = [(b"host_maps", HOST_MAPS), (b"more", Number(1))]
    errors: ClassVar[dict[type[Exception], bytes]] = {errors.NotStored: b"NOT_STORED"}


class ListLeases(Command):
    """One page of the leases that the cluster's DHCP server has on a network now, in order of address.

    `after` is the last address of the page before. `addresses` and `clients` are filters, empty for all: one of these
    addresses, a client with one of these identifiers. Those of host maps are among them. `more` is 1 where another page
    follows. Nothing changes by it.
    """

    arguments: ClassVar = [
        (b"cidr", Text(64)),
        (b"after", Text(64, optional=True)),
        (b"limit", Number(MAX_PAGE_ROWS)),
        (b"addresses", TEXTS),
        (b"clients", IDENTIFIERS),
    ]
    response: ClassVar = [(b"leases", LEASES), (b"more", Number(1))]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.NotSupported: b"NOT_SUPPORTED",
        errors.ServerRefused: b"SERVER_REFUSED",
    }


class EndLease(Command):
    """Take these leases from their clients, if they still have them: one that is gone, or somebody else's, is done.

    The answer means that they are gone from the DHCP server. A client that does not ask it goes on using its address.
    """

    arguments: ClassVar = [(b"leases", LEASES)]
    errors: ClassVar[dict[type[Exception], bytes]] = {
        errors.NotSupported: b"NOT_SUPPORTED",
        errors.ServerRefused: b"SERVER_REFUSED",
    }


class ProbeAddresses(Command):
    """Does anybody use these addresses now? Asked by ARP or neighbour solicitations at one NIC, which must be on the
    network that they are of; answered within `milliseconds` and a moment.

    Whoever is not in the answer did not answer: it does not use its address, or is not to be reached.
    """

    arguments: ClassVar = [
        (b"nic", Text(MAX_NIC_NAME_LENGTH)),
        (b"cidr", Text(64)),
        (b"addresses", ADDRESSES),
        (b"milliseconds", Number(MAX_PROBE_MILLISECONDS)),
    ]
    response: ClassVar = [(b"in_use", ADDRESSES_IN_USE)]
    errors: ClassVar[dict[type[Exception], bytes]] = {errors.NotProbed: b"NOT_PROBED"}


ANSWERED_BY_REGIOND = (Register, ReportTopology, ReportDhcpServer, ReportHostMapState, RenewCertificate, Ping)
ANSWERED_TO_ANYBODY = (Enrol,)
ANSWERED_BY_CLUSTERD = (
    ApplyHostMaps,
    BeginTransfer,
    TransferPage,
    CommitTransfer,
    ForgetSubnet,
    UploadHostMaps,
    UploadFormerHostMaps,
    ProbeAddresses,
    ListLeases,
    EndLease,
    Ping,
)
