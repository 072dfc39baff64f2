"""Many clusterds in one process: `python -m tests.bench.clusters DIRECTORY`.

DIRECTORY/clusters.json lists them: name, state directory, and the network that each is on. Each is the whole of
clusterd (its store on disk, the backend `file`, its link) but for the kernel's interfaces, which are told. It stays
until its standard input ends; its log goes to standard output.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor as global_reactor
from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import react
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from clusterd.config import ClusterSettings
from clusterd.daemon.json_logs import JsonLogObserver
from clusterd.daemon.pauses import avoid_long_collections
from clusterd.protocol.values import InterfaceReport
from clusterd.region_link.identity import IdentityFile, new_key, with_certificate
from clusterd.service import ClusterDaemon
from regiond.certificates import load_authority, to_pem
from regiond.domain.ids import Prefix, format_id
from tests.bench.region import cursor_on


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One cluster and the network that it is on, with the controller's address there."""

    name: str
    state_directory: str
    cidr: str
    address: str

    @property
    def settings(self) -> ClusterSettings:
        return ClusterSettings.model_validate({"state_directory": self.state_directory})


def enrol(dsn: str, directory: Path, endpoint: str, networks: Sequence[tuple[str, str]]) -> list[Enrolled]:
    """Clusters with certificates of the region's authority, one on each network, as if each had enrolled."""
    made = []
    with cursor_on(dsn) as cursor:
        cursor.execute("SELECT id FROM region")
        region = cursor.fetchone()[0]
        cursor.execute("SELECT certificate, private_key FROM authority")
        authority = load_authority(str(region), *cursor.fetchone())
        now = datetime.now(UTC)
        for number, (cidr, address) in enumerate(networks, start=1):
            key, name = new_key(), f"site-{number:04}"
            certificate = authority.for_cluster(
                key.public_key(), format_id(Prefix.CLUSTER, number), name, x509.random_serial_number(), now
            )
            cursor.execute("INSERT INTO cluster (id, name, enrolled) VALUES (%s, %s, now())", (number, name))
            cursor.execute(
                "INSERT INTO certificate (serial, cluster, expires) VALUES (%s, %s, %s)",
                (f"{certificate.serial_number:x}", number, certificate.not_valid_after_utc),
            )
            cluster = Enrolled(name, str(directory / name), cidr, address)
            identity = with_certificate(key, to_pem(certificate), authority.certificate_pem, name, (endpoint,))
            IdentityFile(cluster.settings.identity_path).save(identity)
            made.append(cluster)
    (directory / "clusters.json").write_text(json.dumps([asdict(each) for each in made]))
    return made


class _UntilClosed(Protocol):
    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)


async def main(reactor: Any, directory: str) -> None:
    globalLogBeginner.beginLoggingTo([JsonLogObserver(sys.stdout)], redirectStandardIO=False)
    avoid_long_collections()
    daemons = []
    for each in [Enrolled(**one) for one in json.loads((Path(directory) / "clusters.json").read_text())]:
        daemons.append(ClusterDaemon(reactor, each.settings, _looking_at(each)))
        daemons[-1].startService()
    waiting = _UntilClosed()
    stdio.StandardIO(waiting)
    await waiting.closed
    for daemon in daemons:
        await daemon.stopService()


def _looking_at(cluster: Enrolled) -> Any:
    async def look() -> tuple[InterfaceReport, ...]:
        return (InterfaceReport("eth0", cluster.cidr, (cluster.address,)),)

    return look


if __name__ == "__main__":
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:], global_reactor)
