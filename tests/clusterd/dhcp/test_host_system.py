"""What keeps a DHCP server's user from a file."""

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.internet.testing import MemoryReactorClock

from clusterd.dhcp.host_system import unreadable_place
from clusterd.dhcp.signalled_server import ServerWithPidFile
from tests.requirements import need

SOMEBODY, THEIR_GROUP = 65_000, 65_001


@pytest.fixture
def file() -> Iterator[Path]:
    """Readable by all, below directories that all may enter: pytest's own are private."""
    with TemporaryDirectory(prefix="readable-") as name:
        Path(name).chmod(0o755)
        made = Path(name) / "state" / "hosts"
        made.parent.mkdir()
        made.parent.chmod(0o755)
        made.write_text("")
        made.chmod(0o644)
        yield made
        made.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("directory_mode", "file_mode", "groups", "place"),
    [
        (0o755, 0o644, set(), None),
        (0o711, 0o604, set(), None),
        (0o700, 0o644, set(), "directory"),
        (0o755, 0o640, set(), "file"),
        (0o750, 0o640, {os.getegid()}, None),
        (0o705, 0o644, {os.getegid()}, "directory"),  # the group's bits are what counts for its members
    ],
)
def test_owner_group_and_others(
    file: Path, directory_mode: int, file_mode: int, groups: set[int], place: str | None
) -> None:
    file.parent.chmod(directory_mode)
    file.chmod(file_mode)
    expected = {"directory": file.parent, "file": file, None: None}[place]
    assert unreadable_place(file, SOMEBODY, {THEIR_GROUP, *groups}) == expected
    assert unreadable_place(file, 0, set()) is None


def test_what_an_access_list_may_allow_is_not_said_to_be_forbidden(file: Path) -> None:
    file.chmod(0o600)
    assert unreadable_place(file, SOMEBODY, {THEIR_GROUP}) == file
    entries = (1, 6, 0), (2, 4, SOMEBODY), (4, 0, 0), (16, 4, 0), (32, 0, 0)  # acl(5): tag, permissions, whose
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(file, "system.posix_acl_access", content)
    except OSError as error:
        need(error.errno != errno.EOPNOTSUPP, "no access lists on this file system")
        raise
    assert unreadable_place(file, SOMEBODY, {THEIR_GROUP}) is None


def test_a_link_is_followed(file: Path) -> None:
    link = file.parent / "link"
    link.symlink_to(file)
    assert unreadable_place(link, SOMEBODY, {THEIR_GROUP}) is None
    file.chmod(0o600)
    assert unreadable_place(link, SOMEBODY, {THEIR_GROUP}) == link


@pytest.fixture
def servers_process() -> Iterator["subprocess.Popen[bytes]"]:
    need(os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1", "another user needs root")
    process = subprocess.Popen(["sleep", "600"], user=SOMEBODY, group=THEIR_GROUP, extra_groups=[])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_users_own_process_is_asked(file: Path, servers_process: "subprocess.Popen[bytes]") -> None:
    pid_file = file.with_name("pid")
    pid_file.write_text(str(servers_process.pid))
    server = ServerWithPidFile(pid_file, "sleep", MemoryReactorClock())
    running = server.find()
    assert server.command_line(running) == ("sleep", "600")
    assert server.why_unreadable(running, file) is None
    file.chmod(0o600)
    rest = "which keeps it from its host maps: change that one's mode, owner or group."
    assert server.why_forbidden(running, file) == f"sleep's user (uid {SOMEBODY}) may not read {file}, {rest}"
    file.parent.chmod(0o700)
    words = f"sleep's user (uid {SOMEBODY}) may not enter the directory {file.parent}, {rest}"
    assert server.why_forbidden(running, file) == words
    assert server.why_unreadable(running, file) == server.why_forbidden(running, file)
