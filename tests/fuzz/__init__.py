"""Random bytes and boxes against the links of both daemons, in memory; `python -m tests.fuzz` for many of them."""
