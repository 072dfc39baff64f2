"""Becomes another program that dies with its parent: `exec_child.py PARENT SIGNAL UID GID PROGRAM ARGUMENT...`.

Run by path in a bare interpreter (`python -I -S`), before anything of this project can be imported; standard library
only. In this order, because each step undoes or needs another:

* a session of its own, so that Ctrl-C in a terminal reaches the parent alone, who then stops us in its own order;
* the user and its groups (UID and GID -1: stay);
* PR_SET_PDEATHSIG, after the change of user, which clears it. The kernel means the parent's *thread*: the caller must
  spawn from its main thread;
* is the parent still there? It may have died before the signal was set, and then nobody will ever send it.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, signal, uid, gid = (int(word) for word in arguments[:4])
    os.setsid()
    os.umask(0o077)
    if uid != -1:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent has ended already")
    try:
        os.execv(arguments[4], arguments[4:])  # noqa: S606 - the arguments are this project's own
    except OSError as error:
        sys.exit(f"{arguments[4]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
