"""One site in a process of its own: its network, its DHCP server and its clusterd. `python -m tests.demo.site …`.

A process of its own because an ordinary user gets a network to play with only in a user namespace, and the region
must stay outside of it. The demonstration speaks with it in lines of JSON: the first line that it writes is
`{"ready": …}` or `{"obstacle": "why this kind of site cannot be made here"}`; then each
`{"mac": …, "family": 4, "relay": …}` that it reads, "a machine comes up with this MAC address and asks for an
address", is answered `{"address": …}`, null when nobody gave it one. It ends, and everything with it, when its standard
input does. clusterd's logs, as JSON, go to standard error.
"""

import argparse
import json
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from clusterd.config import ClusterSettings
from tests.demo.processes import ROOT, stop, twistd
from tests.lab import namespaces
from tests.lab.clients import dhclient, udhcpc
from tests.lab.namespaces import DEFAULT_WIRES, LaboratoryError, Network, network, within
from tests.lab.servers import dnsmasq

CLUSTER: Final = "demo-rack"
Obtain = Callable[[str, int, str], str | None]
"""From a MAC address, an IP version and a relay's address to the address that the machine was given."""

_PATIENCE = 20.0
_LOOK_SECONDS = 0.2

_CONFIGURATION = """\
state_directory = "{state}"

[region]
endpoints = ["{region}"]

[dhcp]
{dhcp}

[topology]
watch = ["s[0-9]"]  # the NICs of this demonstration are virtual, which clusterd passes over by default
"""


def missing_for_dnsmasq() -> list[str]:
    """The programs that a site with a real DHCP server and client needs and that are not installed."""
    return [program for program in ("dnsmasq", "udhcpc") if shutil.which(program) is None]


def cluster_state(state: Path) -> Path:
    """The state directory of the site's clusterd."""
    return state / "cluster"


def identity_file(state: Path) -> Path:
    """What makes it a cluster of its region."""
    return ClusterSettings(state_directory=cluster_state(state)).identity_path


def hosts_file(state: Path) -> Path:
    """Where the site's clusterd writes its host maps."""
    return state / "dhcp-hosts"


@contextmanager
def _real_server(made: Network, state: Path) -> Iterator[Obtain]:
    """dnsmasq at the server's end of the cables, real clients at the other."""

    def obtain(mac: str, family: int, relay: str) -> str | None:
        made.set_client_mac(mac)
        return udhcpc(made, attempts=1) if family == 4 else dhclient(made, 6)

    with dnsmasq(made, state, hosts_file=hosts_file(state)):
        yield obtain


@contextmanager
def _responder(state: Path) -> Iterator[Obtain]:
    """The small server on the loopback interface, and machines behind a relay, for IPv4."""
    networks = [cidr for wire in DEFAULT_WIRES for cidr in wire.networks if ":" not in cidr]
    command = [sys.executable, "-m", "tests.lab.responder", "--hosts-file", str(hosts_file(state)), "--port", "0"]
    command += [word for cidr in networks for word in ("--network", cidr)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().decode().strip()
        if not ready.startswith("ready "):
            raise LaboratoryError(f"the responder did not start: {ready!r}")
        port = ready.rpartition(":")[2]

        def obtain(mac: str, family: int, relay: str) -> str | None:
            client = [sys.executable, "-m", "tests.lab.relay_client", "--port", port, "--relay", relay, mac]
            done = subprocess.run(client, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=_PATIENCE)
            return done.stdout.decode().strip() or None

        yield obtain
    finally:
        stop(process)


@contextmanager
def _way_out(made: Network, relay: Path) -> Iterator[str]:
    """The region's address, as it is reached from inside a network: the other end of the relay."""
    command = [*within(made.server), sys.executable, "-m", "tests.demo.relay", str(relay)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().decode().strip()
        if not port.isdecimal():
            raise LaboratoryError(f"the relay did not start: {port!r}")
        yield f"tcp:127.0.0.1:{port}"
    finally:
        stop(process)


@contextmanager
def _clusterd(
    state: Path, region: str, *, real_server: bool, made: Network | None
) -> Iterator["subprocess.Popen[bytes]"]:
    lines = [f'backend = "{"dnsmasq" if real_server else "file"}"', f'hosts_file = "{hosts_file(state)}"']
    if real_server:
        lines.append(f'pid_file = "{state / "dnsmasq.pid"}"')
    config = state / "clusterd.toml"
    config.write_text(_CONFIGURATION.format(state=cluster_state(state), region=region, dhcp="\n".join(lines)))
    if made is not None:
        command = [*within(made.server), *twistd("clusterd", config)]
    else:
        command = [sys.executable, "-m", "tests.demo.told_clusterd", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        yield process
    finally:
        stop(process)


def _requests(clusterd: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """What is asked, until standard input ends. Ends the program when clusterd does."""
    while True:
        # Whoever asks waits for the answer before it asks again: nothing is left in Python's buffer here.
        if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            yield json.loads(line)
        elif clusterd.poll() is not None:
            sys.exit(f"clusterd ended with {clusterd.returncode}")


def _say(content: object) -> None:
    print(json.dumps(content), flush=True)


def _run(state: Path, region: str, relay: Path, *, with_network: bool, real_server: bool) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(network()) if with_network else None
            if made is not None:
                region = stack.enter_context(_way_out(made, relay))
            obtain = stack.enter_context(
                _real_server(made, state) if made is not None and real_server else _responder(state)
            )
        except LaboratoryError as error:
            _say({"obstacle": str(error)})
            return
        clusterd = stack.enter_context(_clusterd(state, region, real_server=real_server, made=made))
        _say({"ready": {"can_ask_for_ipv6": real_server and shutil.which("dhclient") is not None}})
        for asked in _requests(clusterd):
            _say({"address": obtain(asked["mac"], asked["family"], asked["relay"])})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="One site of the demonstration.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--region", required=True, metavar="LINK_ADDRESS")
    parser.add_argument("--relay", type=Path, required=True, help="the UNIX socket that leads there too")
    parser.add_argument("--network", choices=("namespaces", "told"), required=True)
    parser.add_argument("--dhcp", choices=("dnsmasq", "responder"), required=True)
    options = parser.parse_args()
    if options.network == "namespaces" and (obstacle := namespaces.obstacle()) is not None:
        _say({"obstacle": obstacle})
        return
    _run(
        options.state,
        options.region,
        options.relay,
        with_network=options.network == "namespaces",
        real_server=options.dhcp == "dnsmasq",
    )


if __name__ == "__main__":
    main()
