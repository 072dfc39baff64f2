"""What the backends need of the host they run on: files that are replaced in one step, and threads to do it in."""

import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")

_ACCESS_LIST = "system.posix_acl_access"  # acl(5); the kernel's name for it
READABLE_BY_ALL = 0o644  # DHCP servers read their files after they gave up root


class RunInThread(Protocol):
    """Where blocking work is done: a thread in the daemon, the spot in tests."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


async def run_at_once(work: Callable[[], T], /) -> T:
    """Blocking work on the spot, for tests and tools without a reactor."""
    return work()


def run_in_threads_of(reactor: Any) -> RunInThread:
    """Blocking work in the reactor's own thread pool."""

    def run(work: Callable[[], T], /) -> Awaitable[T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), work)

    return run


@dataclass(frozen=True, slots=True)
class FileVersion:
    """Which content a path has: replaced by another file, or written in place, it is another version."""

    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileVersion | None":
        """The version at this path, None when nothing is there. Raises OSError."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(f"{path} is not a regular file")
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


def replace_file(path: Path, content: bytes) -> FileVersion:
    """Give a path new content in one step: readers see the old or the new file, also after a power cut.

    The content goes to a file beside it whose name starts with a dot (DHCP servers that watch a directory pass such
    names over), is flushed to the disk and renamed. Raises OSError; the old file is then untouched.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as file:
            os.fchmod(file.fileno(), READABLE_BY_ALL)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)
    return FileVersion(status.st_ino, status.st_size, status.st_mtime_ns)


def size_of(path: Path) -> int:
    """In octets; 0 for a file that is not there or cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writing_obstacles(path: Path) -> list[str]:
    """What keeps this process from replacing the file at a path, one sentence each."""
    try:
        return _obstacles_in_place(path) or _trial_obstacles(path.with_name(f".{path.name}.check"))
    except OSError as error:  # a directory above it that may not be entered, for one
        return [f"{path} cannot be looked at: {error.strerror or error}."]


def _obstacles_in_place(path: Path) -> list[str]:
    """What can be seen without trying. Raises OSError."""
    directory = path.parent
    if not directory.exists():
        return [f"The directory {directory} does not exist: create it, writable for the user that clusterd runs as."]
    if not directory.is_dir():
        return [f"{directory} is not a directory."]
    if not os.access(directory, os.W_OK | os.X_OK):
        return [f"The directory {directory} is not writable for the user that clusterd runs as."]
    if path.exists() and not path.is_file():
        return [f"{path} is not a regular file: name another path."]
    if path.exists() and not os.access(path, os.R_OK):
        return [f"{path} is not readable for the user that clusterd runs as."]
    return []


def _trial_obstacles(path: Path) -> list[str]:
    """What a file that is written, read back and removed again meets: a full disk, a read-only one, a quota."""
    content = b"written by clusterd to try whether it can\n" * 100
    try:
        replace_file(path, content)
        same = path.read_bytes() == content
        path.unlink()
    except OSError as error:
        return [f"Files in {path.parent} cannot be written: {error.strerror or error}."]
    return [] if same else [f"What is written to {path.parent} is not what can be read there."]


def unreadable_place(path: Path, user: int, groups: set[int]) -> Path | None:
    """The first part of a path whose owner and mode keep a user with these groups from reading the file at its end.

    None where nothing does, or where an access list may say otherwise; security modules are not asked. Raises OSError
    for a path that is gone.
    """
    if user == 0:
        return None
    whole = path.resolve()
    for place in (*reversed(whole.parents), whole):
        status = place.stat()
        needed = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
        if status.st_uid == user:
            needed <<= 6
        elif status.st_gid in groups:
            needed <<= 3
        if not status.st_mode & needed:
            return None if _has_access_list(place) else path if place == whole else place
    return None


def _has_access_list(place: Path) -> bool:
    try:
        return bool(os.getxattr(place, _ACCESS_LIST))
    except OSError:  # none there, or a file system that has no such thing
        return False
