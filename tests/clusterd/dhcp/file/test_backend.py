"""The backend `file`: the contract, and a file that is whole at every moment, whatever goes wrong."""

import os
import resource
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import capturedLogs

from clusterd.dhcp.backend import Backend, BackendError, Rejection
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.host_lines import HEADER
from clusterd.dhcp.host_system import run_in_threads_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.dhcp.contract import ALL_KINDS, PLAIN, SCENARIOS, UNNAMED, Scenario, numbered
from tests.finished import result_of
from tests.requirements import need

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "maps"


@pytest.fixture
def backend(path: Path) -> FileBackend:
    return FileBackend(path)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_contract(scenario: Scenario, backend: Backend) -> None:
    result_of(scenario(backend))


def test_writes_sorted_lines_that_everybody_may_read(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), ALL_KINDS))
    assert path.read_text() == HEADER + (
        "00:16:3e:00:00:01,192.0.2.11,web1\n"
        "00:16:3e:00:00:02,192.0.2.12\n"
        "id:ff:0a:2c:3b:0a,192.0.2.13,web1-alias\n"
        "00:16:3e:00:00:01,198.51.100.11,web1\n"
        "00:16:3e:00:00:01,[2001:db8:0:1::11],web1\n"
        "id:00:03:00:01:00:16:3e:00:00:03,[2001:db8:0:1::13],web3\n"
    )
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_mode_does_not_depend_on_the_umask(backend: FileBackend, path: Path) -> None:
    before = os.umask(0o077)
    try:
        result_of(backend.apply((), {PLAIN}))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_another_process_reads_the_same(backend: FileBackend, path: Path) -> None:
    result_of(backend.replace(ALL_KINDS))
    assert result_of(FileBackend(path).read()) == ALL_KINDS


def test_nothing_is_written_when_nothing_changes(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), {PLAIN}))
    before = path.stat()
    result_of(backend.apply({UNNAMED}, {PLAIN}))
    assert path.stat() == before


def test_an_edit_by_hand_is_seen_and_its_form_put_right(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), {PLAIN, UNNAMED}))
    text = path.read_text().replace("00:16:3e:00:00:02,192.0.2.12\n", "")
    path.write_text(text + "0:16:3E:0:0:5, 192.0.2.15 # lab\n00:16:3e:00:00:*,192.0.2.16\nid:*,192.0.2.17\n")
    by_hand = HostMap(Identifier.mac("00:16:3e:00:00:05"), "192.0.2.15")
    with capturedLogs() as logs:
        assert result_of(backend.read()) == {PLAIN, by_hand}
    unreadable = [event for event in logs if event.get("event") == "hosts-file.unreadable-line"]
    assert [(event["line"], event["text"]) for event in unreadable] == [
        (5, "00:16:3e:00:00:*,192.0.2.16"),
        (6, "id:*,192.0.2.17"),
    ]
    assert path.read_text() == HEADER + "00:16:3e:00:00:01,192.0.2.11,web1\n00:16:3e:00:00:05,192.0.2.15\n"


def test_a_change_after_an_unseen_edit_starts_from_what_the_file_says(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), {PLAIN}))
    path.write_text(HEADER)
    result_of(backend.apply((), {UNNAMED}))
    assert path.read_text() == HEADER + "00:16:3e:00:00:02,192.0.2.12\n"


def test_a_deleted_file_is_written_again(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), {PLAIN}))
    path.unlink()
    assert result_of(backend.read()) == frozenset()
    result_of(backend.apply((), {PLAIN}))
    assert result_of(FileBackend(path).read()) == {PLAIN}


def test_a_file_of_somebody_else_is_left_alone(backend: FileBackend, path: Path) -> None:
    foreign = "00:16:3e:00:00:07,192.0.2.7,printer\n"
    path.write_text(foreign)
    for call in (backend.read(), backend.apply((), {PLAIN}), backend.replace({PLAIN})):
        with pytest.raises(BackendError, match="was not written by clusterd"):
            result_of(call)
    assert path.read_text() == foreign
    assert "was not written by clusterd" in result_of(backend.check())[0]


def test_what_the_syntax_cannot_say_is_rejected_and_the_rest_written(backend: FileBackend) -> None:
    named_like_a_time = HostMap(Identifier.mac("00:16:3e:00:00:21"), "192.0.2.21", "12h")
    second_client_id = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"\xff\xff\xff"), "192.0.2.22")
    first_client_id = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"\x01\x02\x03"), "192.0.2.22")
    rejections = result_of(backend.replace({named_like_a_time, second_client_id, first_client_id, PLAIN}))
    assert rejections == (
        Rejection(named_like_a_time, "dnsmasq would read the host name '12h' as a lease time"),
        Rejection(
            second_client_id, "dnsmasq takes one client-id per IPv4 address, and 192.0.2.22 has another one already"
        ),
    )
    assert result_of(backend.read()) == {first_client_id, PLAIN}


def test_more_than_the_limit_is_refused_and_the_file_stays(path: Path) -> None:
    backend = FileBackend(path, max_host_maps=10)
    result_of(backend.replace(numbered(10)))
    with pytest.raises(BackendError, match="11 host maps are more than the 10"):
        result_of(backend.apply((), {PLAIN}))
    assert result_of(backend.read()) == numbered(10)


def test_check_names_what_is_missing(tmp_path: Path) -> None:
    assert result_of(FileBackend(tmp_path / "maps").check()) == []
    [sentence] = result_of(FileBackend(tmp_path / "absent" / "maps").check())
    assert sentence.startswith(f"The directory {tmp_path}/absent does not exist")
    (tmp_path / "taken").mkdir()
    [sentence] = result_of(FileBackend(tmp_path / "taken").check())
    assert sentence == f"{tmp_path}/taken is not a regular file: name another path."
    (tmp_path / "file").write_text("")
    [sentence] = result_of(FileBackend(tmp_path / "file" / "maps").check())
    assert sentence == f"{tmp_path}/file is not a directory."
    # As where a directory above it may not be entered, which root always may.
    [sentence] = result_of(FileBackend(tmp_path / ("a" * 300) / "maps").check())
    assert f"{tmp_path}/aaa" in sentence


def test_a_missing_directory_is_an_error_in_the_systems_words(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "absent" / "maps")
    with pytest.raises(BackendError, match=r"cannot write .*/absent/maps: No such file or directory"):
        result_of(backend.apply((), {PLAIN}))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse files of this process beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_the_old_file_and_heals(backend: FileBackend, path: Path) -> None:
    result_of(backend.apply((), {PLAIN}))
    before = path.read_text()
    with largest_file(2000), pytest.raises(BackendError, match=r"cannot write .*/maps: File too large"):
        result_of(backend.apply((), numbered(100)))
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]
    assert result_of(backend.read()) == {PLAIN}
    result_of(backend.apply((), numbered(100)))
    assert result_of(FileBackend(path).read()) == numbered(100) | {PLAIN}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    need(os.geteuid() == 0, "mounting a small file system needs root")
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount_point)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    need(mounted.returncode == 0, f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def test_a_full_disk_leaves_the_old_file_and_heals(small_disk: Path) -> None:
    path = small_disk / "maps"
    backend = FileBackend(path)
    result_of(backend.replace(numbered(100)))
    with pytest.raises(BackendError, match=r"cannot write .*/maps: No space left on device"):
        result_of(backend.replace(numbered(5000)))
    assert result_of(FileBackend(path).read()) == numbered(100)
    result_of(backend.apply((), {PLAIN}))
    assert result_of(FileBackend(path).read()) == numbered(100) | {PLAIN}


@pytest_twisted.ensureDeferred
async def test_in_the_reactors_threads_calls_take_turns_and_the_reactor_keeps_turning(path: Path) -> None:
    """Fifty changes at once beside ten thousand maps: each is done, none of it in the reactor's own thread."""
    in_threads, workers = run_in_threads_of(reactor), set[int]()

    def run(work: Callable[[], T], /) -> Awaitable[T]:
        def noted() -> T:
            workers.add(get_ident())
            return work()

        return in_threads(noted)

    backend = FileBackend(path, run_in_thread=run)
    await backend.replace(numbered(10_000))
    added = [HostMap(Identifier.mac(f"00:16:3e:ff:00:{number:02x}"), f"192.0.2.{number}") for number in range(1, 51)]
    calls = [Deferred.fromCoroutine(backend.apply((), {host_map})) for host_map in added]
    assert not any(call.called for call in calls)
    await gatherResults(calls)
    assert workers and get_ident() not in workers
    assert await backend.read() == numbered(10_000) | set(added)
