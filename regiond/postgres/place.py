"""Where the embedded PostgreSQL lives below the state directory, and who may be there.

    STATE/postgres/             this process's user, 0711 when it is root, else 0700
        lock                    held for as long as a regiond runs on this state directory
        data/                   the server's user, 0700
        new-*/                  an initdb that has not finished; removed at the next start
        socket/                 the server's user, 0700; elsewhere when the path is too long for a UNIX socket
        runtime-directory       where that is
        hba.conf, ident.conf    written at each start: only this process's user may connect
        binaries-VERSION/       a copy of the programs, only where the server's user cannot run the installed ones

Files of ours lie in a directory of ours: the server's user cannot put a link in their place.
"""

import fcntl
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import Final

from regiond.postgres.binaries import unenterable
from regiond.postgres.children import Identity
from regiond.postgres.errors import PostgresUnavailable

ROLE: Final = "hostmap"
DATABASE: Final = "hostmap"
PORT: Final = 5432
SERVER_USERS: Final = ("hostmap", "postgres", "nobody")
LONGEST_SOCKET_PATH_BYTES: Final = 107
RUNTIME_BASES: Final = (Path("/run"), Path("/tmp"))  # noqa: S108 - a private directory is made in it
_UNFINISHED: Final = "new-"
_RUNTIME_PREFIX: Final = "hostmap-"


def server_identity(run_as: str | None) -> Identity:
    """The user that PostgreSQL runs as: our own, or, when we are root, which it refuses, `run_as` or a usual one.

    Raises PostgresUnavailable.
    """
    if os.geteuid() != 0:
        own = _own_name()
        if run_as not in (None, own):
            raise PostgresUnavailable(f"only root can run PostgreSQL as {run_as}; this process runs as {own}")
        return Identity(own, os.geteuid(), os.getegid())
    for name in SERVER_USERS if run_as is None else (run_as,):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise PostgresUnavailable(f"PostgreSQL refuses to run as root, and {name} is another name of root")
        return Identity(name, entry.pw_uid, entry.pw_gid)
    wanted = f"user {run_as}" if run_as else f"any of the users {', '.join(SERVER_USERS)}"
    raise PostgresUnavailable(
        f"PostgreSQL refuses to run as root, and this system does not have {wanted}: create one "
        "(useradd --system hostmap), name another in [database] run_as, or start regiond as a user of its own"
    )


class Place:
    """The directory `STATE/postgres`, locked from `take` until `leave`."""

    def __init__(self, state_directory: Path, identity: Identity) -> None:
        self._identity = identity
        # resolved: the kernel names working directories that way
        self._state_directory = state_directory.resolve()
        self.root = self._state_directory / "postgres"
        self.data = self.root / "data"
        self.hba_file = self.root / "hba.conf"
        self.ident_file = self.root / "ident.conf"
        self.socket_directory = self.root / "socket"
        self._lock: int | None = None

    def take(self) -> None:
        """Make the directory, make it ours alone, and see that the server's user can get there.

        Raises PostgresUnavailable.
        """
        mode = 0o700 if self._identity.is_us else 0o711
        try:
            for directory in (self._state_directory, self.root):
                if not directory.is_dir():
                    directory.mkdir(parents=True)
                    directory.chmod(mode)
            self._take_lock()
        except OSError as error:
            raise PostgresUnavailable(f"cannot use {self.root}: {error.strerror or error}") from error
        barrier = unenterable(self.root, self._identity)
        if barrier is not None:
            raise PostgresUnavailable(
                f"PostgreSQL runs as the user {self._identity.name}, who cannot enter {barrier}: allow it "
                f"(chmod o+x {barrier}), choose a state directory elsewhere (/var/lib/hostmap, say), or start regiond "
                f"as a user of its own"
            )

    def _take_lock(self) -> None:
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise PostgresUnavailable(
                f"another regiond already runs on this state directory: {self._state_directory}"
            ) from None
        self._lock = lock

    def leave(self) -> None:
        """Let another regiond have it."""
        if self._lock is None:
            return
        self._remove_runtime_directory()
        os.close(self._lock)
        self._lock = None

    # The data directory

    def new_data_directory(self) -> Path:
        """An empty directory of the server's user, to be filled and then handed to `adopt`."""
        path = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.root))
        self._give(path)
        return path

    def adopt(self, finished: Path) -> None:
        """Make a finished data directory the one that is used, at once or not at all."""
        finished.rename(self.data)
        _sync(self.root)

    def remove_unfinished(self) -> None:
        """Remove what an interrupted initdb left. Takes as long as the disk does: call it in a thread."""
        for path in self.root.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path)

    def data_version(self) -> str | None:
        """The major version that wrote the data directory, None when there is none. Raises PostgresUnavailable."""
        if not self.data.exists():
            return None
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise PostgresUnavailable(
                f"{self.data} is not a PostgreSQL data directory: restore it from a backup, or move it away"
            ) from None
        owner = self.data.stat().st_uid
        if owner != self._identity.uid:
            raise PostgresUnavailable(
                f"{self.data} belongs to {_name_of(owner)}, but PostgreSQL would run as {self._identity.name}: run it "
                f"as its owner, or give it away (chown -R {self._identity.name} {self.data})"
            )
        return found

    def postmaster(self) -> tuple[int, str] | None:
        """The process id and the status word in postmaster.pid; None when there is none that can be read."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
            return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
        except (FileNotFoundError, ValueError):
            return None

    def may_have_living(self) -> bool:
        """Whether anything is left of a server or an initdb that did not end in order."""
        return (self.data / "postmaster.pid").exists() or any(self.root.glob(f"{_UNFINISHED}*"))

    def living(self) -> set[int]:
        """The processes that work in a data directory, finished or not: those of a killed regiond, still going away.

        They are known by their working directory, since process ids are given out again.
        """
        return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._works(entry)}

    def _works(self, entry: Path) -> bool:
        try:
            directory = Path(entry, "cwd").readlink()
        except OSError:
            return False
        # a removed one reads "… (deleted)"
        return directory == self.data or (directory.parent == self.root and directory.name.startswith(_UNFINISHED))

    def forget_postmaster(self) -> None:
        """Remove the postmaster.pid of a server of which nothing lives.

        PostgreSQL removes it by itself, except where the process id has been given to somebody else since: in a
        container, where ids start again from 1, that is the usual case.
        """
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    # The way in

    def open_socket_directory(self) -> None:
        """Make the directory for the socket, in a short place when this one is too long."""
        self._remove_runtime_directory()
        if len(os.fsencode(self.socket_directory / f".s.PGSQL.{PORT}")) <= LONGEST_SOCKET_PATH_BYTES:
            self.socket_directory.mkdir(mode=0o700, exist_ok=True)
        else:
            self.socket_directory = self._new_runtime_directory()
        self._give(self.socket_directory)

    def _new_runtime_directory(self) -> Path:
        for base in RUNTIME_BASES:
            try:
                path = Path(tempfile.mkdtemp(prefix=_RUNTIME_PREFIX, dir=base))
            except OSError:
                continue
            (self.root / "runtime-directory").write_text(str(path), encoding="utf-8")
            return path
        raise PostgresUnavailable(
            f"the path {self.socket_directory} is too long for a UNIX socket, and neither "
            f"{' nor '.join(map(str, RUNTIME_BASES))} can be written to: choose a shorter state directory"
        )

    def _remove_runtime_directory(self) -> None:
        """Remove the short place of this start, or of one that was killed. Trusts the note only as far as needed."""
        note = self.root / "runtime-directory"
        try:
            path = Path(note.read_text(encoding="utf-8"))
            ours = path.lstat().st_uid in (self._identity.uid, os.geteuid())
        except FileNotFoundError:
            ours = False
        if ours and path.parent in RUNTIME_BASES and path.name.startswith(_RUNTIME_PREFIX) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        note.unlink(missing_ok=True)

    def write_access_rules(self) -> None:
        """Let this process's user in as the role that owns everything, by what the kernel says of it; nobody else."""
        own = _own_name()
        if '"' in own or own.startswith("/"):
            raise PostgresUnavailable(f"the user name {own!r} cannot be written in PostgreSQL's access rules")
        rules = "".join(f"local {what} {ROLE} peer map=regiond\n" for what in ("all", "replication"))
        self._write(self.hba_file, rules)
        self._write(self.ident_file, f'regiond "{own}" {ROLE}\n')

    def _write(self, path: Path, text: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self.root)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("# written by regiond at each start\n" + text)
            os.fchmod(descriptor, 0o644)
        Path(name).rename(path)

    def _give(self, path: Path) -> None:
        if not self._identity.is_us:
            os.chown(path, self._identity.uid, self._identity.gid, follow_symlinks=False)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise PostgresUnavailable(
            f"this process's user id {os.geteuid()} has no name in /etc/passwd; PostgreSQL needs one"
        ) from None


def _name_of(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user id {uid}"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
