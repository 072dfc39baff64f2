"""`python -m tests.demo.run`: the demonstration's two daemons, left running with their logs on the terminal."""

import argparse
import os
import signal
import socket
import sys
import time
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

from regiond.postgres.binaries import unenterable
from regiond.postgres.errors import PostgresUnavailable
from regiond.postgres.place import server_identity
from tests.demo.api import BASE
from tests.demo.processes import ROOT, DemoFailed, die_on
from tests.demo.site import CLUSTER
from tests.demo.stage import Region, Stage
from tests.lab.namespaces import DEFAULT_WIRES

USUAL_PORT: Final = 5240
LONGEST_DIRECTORY: Final = 70  # bytes; the paths of UNIX sockets below it are limited to 107

_print_lock = Lock()


def _print(*lines: str) -> None:
    with _print_lock:
        print(*lines, sep="\n", flush=True)


def _show(daemon: str, line: str) -> None:
    _print(f"{daemon:<8} | {line}")


def state_directory() -> Path:
    """`.run` in the checkout; elsewhere when its path is too long or PostgreSQL's user cannot enter the checkout."""
    here = ROOT / ".run"
    if len(os.fsencode(here)) <= LONGEST_DIRECTORY and unenterable(ROOT, server_identity(None)) is None:
        here.mkdir(mode=0o711, exist_ok=True)
        return here
    elsewhere = Path(f"/var/tmp/hostmap-run-{os.geteuid()}-{sha256(os.fsencode(ROOT)).hexdigest()[:8]}")
    elsewhere.mkdir(mode=0o711, exist_ok=True)
    if elsewhere.is_symlink() or elsewhere.stat().st_uid != os.geteuid():
        raise DemoFailed(f"{elsewhere} belongs to somebody else")
    return elsewhere


def _port() -> int:
    """The usual port, or any when that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def _token(region: Region, state: Path) -> str:
    """The token of the last time, while it is good, or a new one."""
    kept = state / "token"
    if kept.exists():
        token = kept.read_text().strip()
        if region.api(token).is_welcome():
            return token
    token = region.new_token(f"run {time.strftime('%Y-%m-%d %H:%M:%S')}")
    kept.touch(mode=0o600)
    kept.write_text(token + "\n")
    return token


def _explanation(region: Region, token: str, state: Path, dhcp: str) -> list[str]:
    url = region.url + BASE
    regionctl = Path(sys.executable).with_name("regionctl")
    curl = f"curl -sS -H 'Authorization: Bearer {token}'"
    body = '{"macs": ["00:16:3e:00:00:01"], "interface": "192.0.2.0/24", "hostname": "web1"}'
    return [
        "",
        f"The region's HTTP API:  {url}",
        f"An admin's token:       {token}",
        f"The cluster:            {CLUSTER}, DHCP by {dhcp}; its host maps are in {state / 'site' / 'dhcp-hosts'}",
        f"State:                  {state} (stays; remove it to begin anew)",
        "",
        "In another terminal: what the cluster reported, an address for a device, and who has which address",
        "",
        f"  {curl} {url}/cluster-interfaces",
        "",
        f"  {curl} -H 'Content-Type: application/json' -d '{body}' '{url}/devices?wait=5'",
        "",
        f"  {curl} {url}/reservations",
        "",
        f"or, as the local admin:  {regionctl} --socket {state}/region/api.sock --help",
        "",
        "Ctrl-C stops both daemons.",
        "",
    ]


def main() -> int:
    """The exit code: 0 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="The demonstration's two daemons, left running in the foreground.")
    parser.add_argument("--state", type=Path, metavar="DIRECTORY", help="default: .run in the checkout")
    chosen: Path | None = parser.parse_args().state
    die_on(signal.SIGTERM, signal.SIGHUP)
    try:
        state = state_directory() if chosen is None else chosen.absolute()
        with Stage(state, _show) as stage:
            try:
                region = stage.start_region(_port())
                region.ready()
                token = _token(region, state)
                stage.enrol(region)
                site = stage.start_site(
                    region, lambda why: _print(f"(A better kind of site cannot be made here: {why})")
                )
                expected = sum(len(wire.server_addresses) for wire in DEFAULT_WIRES)
                stage.wait_for_interfaces(region.api(token), region, site, expected)
                _print(*_explanation(region, token, state, site.kind.dhcp))
                while True:
                    region.daemon.must_live()
                    site.must_live()
                    time.sleep(0.2)  # between two looks whether both daemons live; nothing waits for it, Ctrl-C ends it
            except KeyboardInterrupt:
                _print("", "Stopping…")
            finally:
                for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(ignored, signal.SIG_IGN)
    except (DemoFailed, PostgresUnavailable) as error:
        _print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
