"""How many connections the process may have: each is an open file."""

import resource
from typing import Final

BESIDE: Final = 256
"""Files for everything else: the database, clusters, logs, certificates."""


def connections_that_fit(wanted: int) -> int:
    """As many of the wanted ones as the limit of open files lets; it is raised as far as it may be (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + BESIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - BESIDE))
