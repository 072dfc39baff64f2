"""Errors that cross the wire, and their codes.

One string of an error crosses the wire (AMP's `_error_description`), so each error is its message and, where a
program needs a number, that number alone is the message.
"""

MALFORMED_ARGUMENT_CODE = b"MALFORMED_ARGUMENT"


class ProtocolError(Exception):
    """Something the other side declared that it may answer."""


class MalformedArgument(ProtocolError, ValueError):
    """An argument is not what the command's definition allows."""


class UnknownCommand(ProtocolError):
    """The peer does not know the command, for it is of an older version. Never sent: AMP answers that by itself."""


class IncompatibleVersion(ProtocolError):
    """The peer speaks no protocol version that this side speaks."""


class RegistrationRefused(ProtocolError):
    """The region does not accept this cluster: revoked, unnamed, or named like nothing it may be."""


class EnrolmentRefused(ProtocolError):
    """No certificate: the token is unknown, used or expired, or the request is not one that is signed."""


class NotRegistered(ProtocolError):
    """The command needs `Register` first."""


class GenerationMismatch(ProtocolError):
    """The cluster is not at `from_generation`. The message is the accepted generation, a decimal number."""

    def __init__(self, accepted: int | str) -> None:
        super().__init__(str(accepted))

    @property
    def accepted(self) -> int:
        """Where the cluster is. Raises ValueError if the peer sent something else."""
        return int(str(self.args[0]), 10)


class DigestMismatch(ProtocolError):
    """The set after the change is not the announced one; a snapshot is needed."""


class HistoryMismatch(ProtocolError):
    """The sender's history is not the one this cluster registered with."""


class SnapshotOlder(ProtocolError):
    """A snapshot below the accepted generation of one history: a late sender must not resurrect freed maps."""


class UnknownTransfer(ProtocolError):
    """A page or commit without its `BeginTransfer`, or after another one discarded it."""


class UnknownSubnet(ProtocolError):
    """The cluster has nothing of this subnet from this region."""


class NotProbed(ProtocolError):
    """The cluster cannot ask who uses the addresses. The message says why."""


class NotStored(ProtocolError):
    """The cluster could not put the change on its disk; nothing of it is in effect. The message says why."""


class ServerRefused(ProtocolError):
    """The DHCP server did not do what the answer would promise. The message is the server's own words."""


class NotSupported(ProtocolError):
    """The cluster's DHCP server, or the way it is reached, does not offer this. The message says what is missing."""
