"""Lets a daemon have as many open files and connections as its host allows."""

import resource


def use_all_descriptors() -> None:
    """Call once, when the daemon is put together.

    What init systems give by default is 1024, for the sake of programs with `select`, and can be raised to much more by
    whoever asks: a thousand clusters alone would use it up.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
