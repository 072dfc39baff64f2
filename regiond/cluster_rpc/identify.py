"""Who the peer of a connection is."""

from typing import Protocol

from clusterd.daemon.mutual_tls import peer_certificate
from clusterd.protocol import errors
from clusterd.protocol.connection import Link
from clusterd.protocol.values import parse_name
from regiond.certificates import BACKDATED
from regiond.domain.identity import ByCertificate, ByName, Identity
from regiond.domain.ids import Prefix, parse_id


class Identify(Protocol):
    def __call__(self, link: Link, claimed_name: str | None) -> Identity:
        """Raises RegistrationRefused."""


def identify_plain(link: Link, claimed_name: str | None) -> Identity:
    """On a plain link, a socket that only regiond's own user can open, whoever connects is trusted to say its name."""
    if claimed_name is None:
        raise errors.RegistrationRefused("a plain link needs the cluster's name")
    try:
        return ByName(parse_name(claimed_name))
    except ValueError as error:
        raise errors.RegistrationRefused(str(error)) from error


def identify_by_certificate(link: Link, claimed_name: str | None) -> Identity:
    """On a TLS link the certificate says it, and nothing else: a claimed name is not looked at."""
    shown = peer_certificate(link.transport)
    number = None if shown is None or shown.name.cluster is None else parse_id(Prefix.CLUSTER, shown.name.cluster)
    if shown is None or number is None:
        raise errors.RegistrationRefused("there is no certificate of a cluster")
    return ByCertificate(number, shown.common_name, shown.serial, shown.not_before + BACKDATED, shown.not_after)
