"""What a demonstration happens on: one region and one site, running, in one state directory."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from tests.demo.api import Api
from tests.demo.processes import COMMAND_SECONDS, ROOT, Daemon, DemoFailed, Logs, output_of, stop, twistd, wait_for
from tests.demo.relay import from_socket
from tests.demo.site import CLUSTER, cluster_state, hosts_file, identity_file, missing_for_dnsmasq
from tests.lab.unprivileged import command_line

START_SECONDS: Final = 60.0
SITE_SECONDS: Final = 30.0
ACCOUNT: Final = "demo"

_REGION_CONFIGURATION = """\
state_directory = "{state}"

[http]
listen = ["tcp:127.0.0.1:{port}"]

[clusters]
listen = ["tcp:127.0.0.1:0"]
enrolment = "tcp:127.0.0.1:0"
"""

_CONFIGURATION_TO_JOIN = """\
state_directory = "{state}"
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of site: whether its network is one of the kernel's, and what serves DHCP on it."""

    network: str  # namespaces, told
    dhcp: str  # dnsmasq, responder


class Show(Protocol):
    """What becomes of the daemons' log lines while they run."""

    def __call__(self, daemon: str, line: str, /) -> None: ...


def kinds_possible() -> tuple[list[Kind], list[str]]:
    """The kinds of site that are worth a try here, best first, and why better ones are not."""
    reasons = []
    missing = missing_for_dnsmasq()
    networks = [Kind("namespaces", "responder")]
    if missing:
        reasons.append(f"not installed: {', '.join(missing)}")
    else:
        networks.insert(0, Kind("namespaces", "dnsmasq"))
    if os.geteuid() != 0 and (obstacle := _obstacle_to_user_namespaces()):
        reasons.append(f"an ordinary user may not make network namespaces here ({obstacle})")
        networks = []
    return [*networks, Kind("told", "responder")], reasons


def _obstacle_to_user_namespaces() -> str | None:
    try:
        probe = subprocess.run(command_line(["true"]), check=False, capture_output=True, text=True, timeout=30)
    except OSError as error:
        return str(error)
    return None if probe.returncode == 0 else probe.stderr.strip() or f"status {probe.returncode}"


def new_state_directory() -> Path:
    """A new directory with a short name, which the user that PostgreSQL runs as can enter."""
    base = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None
    path = Path(tempfile.mkdtemp(prefix="hostmap-demo-", dir=base))
    path.chmod(0o711)
    return path


class Region:
    """regiond, on the PostgreSQL that it brings, with an admin account for programs."""

    def __init__(self, state: Path, show: Show | None, port: int = 0) -> None:
        state.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.socket = state / "api.sock"
        self.relay = state / "link.sock"
        config = state / "regiond.toml"
        config.write_text(_REGION_CONFIGURATION.format(state=state, port=port))
        self.daemon = Daemon("regiond", twistd("regiond", config), _shown_by(show, "regiond"))

    def ready(self) -> dict[str, Any]:
        """Wait for it; what it said when it was. Raises DemoFailed."""
        started = self.daemon.started("regiond.started", START_SECONDS)
        address = urlsplit(started["http"][0].replace("tcp:", "http://", 1))
        assert address.hostname is not None and address.port is not None
        self.url = address.geturl()
        self._host, self._port = address.hostname, address.port
        (self.link,) = started["clusters"]
        self.relay.unlink(missing_ok=True)
        from_socket(str(self.relay), int(self.link.rpartition(":")[2]))
        return started

    def offer(self, cluster: str) -> str:
        """The command that makes a host this cluster, as `regionctl` prints it. Raises DemoFailed."""
        return output_of(["regionctl", "--socket", str(self.socket), "clusters", "enrol", cluster]).strip()

    def new_token(self, name: str) -> str:
        """An admin's token for programs; made through the socket that only this user can open."""
        local = Api.over_socket(self.socket)
        local.post("/users", {"name": ACCOUNT, "role": "admin"}).expect(201, 409)
        token = local.post("/tokens", {"name": name, "account": ACCOUNT}).expect(201).content["token"]
        assert isinstance(token, str)
        return token

    def api(self, token: str) -> Api:
        """The API for who has the token."""
        return Api.over_tcp(self._host, self._port, token)


class Site:
    """The process of `tests.demo.site`."""

    def __init__(self, kind: Kind, state: Path, region: Region, show: Show | None) -> None:
        self.kind = kind
        self.hosts_file = hosts_file(state)
        command = [sys.executable, "-m", "tests.demo.site", "--state", str(state), "--region", region.link]
        command += ["--relay", str(region.relay), "--network", kind.network, "--dhcp", kind.dhcp]
        if kind.network == "namespaces" and os.geteuid() != 0:
            command = command_line(command)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert self._process.stderr is not None
        self.logs = Logs(self._process.stderr, _shown_by(show, "clusterd"))

    def begin(self) -> str | None:
        """Wait until it is ready; None, or why this kind of site cannot be made here. Raises DemoFailed."""
        answer = self._read()
        if "obstacle" in answer:
            return str(answer["obstacle"])
        self.can_ask_for_ipv6 = bool(answer["ready"]["can_ask_for_ipv6"])
        return None

    def obtain(self, mac: str, family: int, relay: str) -> str | None:
        """What address a machine with this MAC address is given. Raises DemoFailed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"mac": mac, "family": family, "relay": relay}).encode() + b"\n")
        self._process.stdin.flush()
        address = self._read()["address"]
        return None if address is None else str(address)

    def must_live(self) -> None:
        """Raises DemoFailed when it has ended."""
        if self._process.poll() is not None:
            raise self._ended()

    def stop(self) -> None:
        """End it and everything in it."""
        assert self._process.stdin is not None
        stop(self._process, self._process.stdin.close)
        self.logs.join(SITE_SECONDS)

    def _ended(self) -> DemoFailed:
        code = self._process.wait(SITE_SECONDS)
        self.logs.join(SITE_SECONDS)
        last = self.logs.last_lines(1)
        return DemoFailed(last[0] if last else f"the site ended with {code}")

    def _read(self) -> dict[str, Any]:
        # Bounded by the site, whose every step is, and by the alarm of the whole demonstration.
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer


class Stage:
    """A region and a site that are stopped at the end, whatever happens."""

    def __init__(self, state: Path, show: Show | None = None) -> None:
        self.state = state
        self._show = show
        self._stack = ExitStack()
        self.region: Region | None = None
        self.site: Site | None = None

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_region(self, port: int = 0) -> Region:
        """Start it; `Region.ready` waits for it."""
        self.region = Region(self.state / "region", self._show, port)
        self._stack.callback(self.region.daemon.stop)
        return self.region

    def enrol(self, region: Region) -> str | None:
        """Make the site a cluster of the region; the command that did it, None where it is one from the last time.

        Raises DemoFailed.
        """
        site = self.state / "site"
        if identity_file(site).exists():
            return None
        site.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = site / "join.toml"
        config.write_text(_CONFIGURATION_TO_JOIN.format(state=cluster_state(site)))
        command = region.offer(CLUSTER)
        # As printed, but with this checkout's Python and state.
        ours = f"{command.replace('python3', shlex.quote(sys.executable))} --config {shlex.quote(str(config))}"
        done = subprocess.run(
            ["/bin/sh", "-c", ours], cwd=ROOT, check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        if done.returncode != 0:
            raise DemoFailed(f"{command} ended with {done.returncode}: {done.stderr.strip()}")
        return command

    def start_site(self, region: Region, tell: Callable[[str], None]) -> Site:
        """The best kind of site that can be made here; `tell` hears why better ones cannot. Raises DemoFailed."""
        kinds, reasons = kinds_possible()
        for reason in reasons:
            tell(reason)
        for kind in kinds:
            self.site = Site(kind, self.state / "site", region, self._show)
            self._stack.callback(self.site.stop)
            obstacle = self.site.begin()
            if obstacle is None:
                return self.site
            tell(obstacle)
        raise DemoFailed("no site can be made here")

    def wait_for_interfaces(self, api: Api, region: Region, site: Site, count: int) -> list[dict[str, Any]]:
        """Wait until the region has the cluster's interfaces, and addresses can be claimed there; they, in order.

        Raises DemoFailed.
        """
        found: list[dict[str, Any]] = []

        def reported() -> bool:
            found[:] = api.get("/cluster-interfaces")
            here = [one for one in found if one["present"] and one["cluster"]["name"] == CLUSTER]
            # The interfaces come first; what the DHCP server has of its own is told a moment later.
            return len(here) >= count and all(subnet["claimable"] for subnet in api.get("/subnets"))

        def alive() -> None:
            region.daemon.must_live()
            site.must_live()

        # Not too often: each question is a line in the region's log.
        wait_for(reported, "clusterd has reported its interfaces to the region", SITE_SECONDS, alive=alive, pause=0.25)
        return sorted(found, key=lambda one: (one["nic"], one["cidr"]))

    def last_lines(self, count: int) -> list[str]:
        """The end of the daemons' logs, for when something went wrong."""
        logs = {
            "regiond": None if self.region is None else self.region.daemon.logs,
            "clusterd": None if self.site is None else self.site.logs,
        }
        return [f"{name:<8} | {line}" for name, log in logs.items() if log for line in log.last_lines(count)]


def _shown_by(show: Show | None, daemon: str) -> Callable[[str], None] | None:
    return None if show is None else lambda line: show(daemon, line)
