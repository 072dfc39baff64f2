"""Proof under violence: nothing that was acknowledged is lost or doubled. `python -m tests.chaos --help`."""
