"""`python3 -m clusterd join`: enrol this host as a cluster. `regionctl clusters enrol` prints the whole command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet import error as network
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols import amp

from clusterd.config import ClusterSettings
from clusterd.daemon.config_file import ConfigError, load, validate
from clusterd.daemon.endpoints import TlsAddress, parse_link_address
from clusterd.daemon.mutual_tls import TlsConnections, enrolling_context, fingerprint_of, parse_fingerprint
from clusterd.protocol.commands import MAX_TOKEN_LENGTH, Enrol
from clusterd.protocol.connection import CallTimedOut, Link, LinkLost
from clusterd.protocol.errors import ProtocolError
from clusterd.region_link.addresses import parse_endpoints
from clusterd.region_link.identity import (
    Identity,
    IdentityFile,
    IdentityUnusable,
    new_key,
    signing_request,
    with_certificate,
)

USUAL_CONFIG: Final = Path("/etc/hostmap/clusterd.toml")


class NotJoined(Exception):
    """Nothing was changed here; the text says why."""


async def enrol(reactor: Any, address: TlsAddress, fingerprint: str, token: str) -> Identity:
    """Ask the region whose authority has this fingerprint for a certificate. Raises NotJoined."""
    key = new_key()
    link = Link(reactor)
    try:
        connections = TlsConnections(lambda: enrolling_context(fingerprint))
        await address.client_endpoint(reactor, connections).connect(_Gives(link))
        answer = await link.call(Enrol, token=token, request=signing_request(key))
    except network.ConnectionRefusedError as error:
        raise NotJoined(
            f"nobody takes clusters in at {address} now ({error}): regiond listens there only while a command of "
            "`regionctl clusters enrol` waits to be used. Was this one used, or is it too old? Get a new one"
        ) from None
    except (network.ConnectError, network.DNSLookupError, OSError) as error:
        raise NotJoined(f"the region at {address} cannot be reached, or is not the right one: {error}") from None
    except (ProtocolError, amp.RemoteAmpError, LinkLost, CallTimedOut) as error:
        raise NotJoined(f"the region at {address} refuses: {error}") from None
    finally:
        if link.connected_now:
            link.abort()
    try:
        endpoints = tuple(map(str, parse_endpoints(answer["endpoints"])))
        identity = with_certificate(key, answer["certificate"], answer["authority"], answer["name"], endpoints)
    except (ValueError, IdentityUnusable) as error:
        raise NotJoined(f"the region's answer cannot be used: {error}") from None
    if fingerprint_of(identity.credentials.authority) != fingerprint or identity.cluster != answer["cluster"]:
        raise NotJoined("the region's answer cannot be used: it contradicts itself")
    return identity


class _Gives(Factory):
    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return self._link


def main(arguments: Sequence[str]) -> None:
    """Ends the process: 0 when this host has joined, 1 when not, 2 for a mistake in the command."""
    parser = argparse.ArgumentParser(
        prog="python3 -m clusterd join",
        description="Make this host a cluster of the region. `regionctl clusters enrol NAME` prints the whole command."
        " The token is read from standard input: an argument could be seen by other users.",
    )
    parser.add_argument("address", type=_address, metavar="ADDRESS", help="where the region takes clusters in")
    parser.add_argument("fingerprint", type=_fingerprint, metavar="FINGERPRINT", help="of the region's authority")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"clusterd's settings; {USUAL_CONFIG} by default, if it is there"
    )
    given = parser.parse_args(arguments)
    try:
        settings = usual_settings(given.config)
    except ConfigError as error:
        sys.exit(str(error))
    if sys.stdin.isatty():
        print("The token (hme_…), then Enter:", file=sys.stderr, flush=True)
    token = sys.stdin.readline(MAX_TOKEN_LENGTH + 2).strip()
    if not token or len(token) > MAX_TOKEN_LENGTH:
        sys.exit("no token on standard input")
    file = IdentityFile(settings.identity_path)

    async def join(reactor: Any) -> None:
        try:
            identity = await enrol(reactor, given.address, given.fingerprint, token)
            file.save(identity)
        except NotJoined as error:
            raise SystemExit(str(error)) from None
        except OSError as error:
            raise SystemExit(f"enrolled, but {file.path} cannot be written: {error}. Get a new command") from None
        print(
            f"This host is the cluster {identity.name} ({identity.cluster}) of region {identity.region}.\n"
            f"Its identity is in {file.path}; clusterd connects to {', '.join(identity.endpoints)}."
        )

    react(lambda reactor: Deferred.fromCoroutine(join(reactor)))


def usual_settings(path: Path | None) -> ClusterSettings:
    """Those of the file, or of the usual place if there is one, or the defaults. Raises ConfigError."""
    if path is None and USUAL_CONFIG.exists():
        path = USUAL_CONFIG
    return validate({}, ClusterSettings, "the defaults") if path is None else load(path, ClusterSettings)


def _address(text: str) -> TlsAddress:
    try:
        address = parse_link_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(address, TlsAddress) or address.port == 0:
        raise argparse.ArgumentTypeError(f"expected tcp:HOST:PORT, not {text[:128]!r}")
    return address


def _fingerprint(text: str) -> str:
    try:
        return parse_fingerprint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
