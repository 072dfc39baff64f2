"""Run a command where an ordinary user may make network namespaces: `python -m tests.lab.unprivileged COMMAND…`.

A user namespace in which the user is root, with a network and a mount namespace of its own, and an empty /run for
the names that `ip netns` keeps there.
"""

import os
import pwd
import sys
from pathlib import Path

_PREPARE = 'mount -t tmpfs tmpfs /run && exec "$@"'


def command_line(command: list[str]) -> list[str]:
    """The command, wrapped."""
    return ["unshare", "--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", _PREPARE, "sh", *command]


def as_nobody_special() -> list[str]:
    """What to put before a command that refuses to be root, such as PostgreSQL: nothing outside of a user namespace.

    In one, where there is no other user to become, it is run in a second one, in which this user has another number.
    """
    mapped_users = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    if os.geteuid() != 0 or mapped_users > 1:
        return []
    name = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != 0)
    return ["unshare", "--user", f"--map-user={name}", "--"]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.lab.unprivileged COMMAND [ARGUMENT…]")
    wrapped = command_line(sys.argv[1:])
    os.execvp(wrapped[0], wrapped)
