"""Run a command where an ordinary user may make network namespaces: `python -m tests.lab.unprivileged COMMAND…`.

A user namespace in which the user is root, with a network and a mount namespace of its own, and an empty /run for
the names that `ip netns` keeps there.
"""

import os
import sys

_PREPARE = 'mount -t tmpfs tmpfs /run && exec "$@"'


def command_line(command: list[str]) -> list[str]:
    """The command, wrapped."""
    return ["unshare", "--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", _PREPARE, "sh", *command]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.lab.unprivileged COMMAND [ARGUMENT…]")
    wrapped = command_line(sys.argv[1:])
    os.execvp(wrapped[0], wrapped)
