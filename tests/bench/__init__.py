"""Benchmarks: `python -m tests.bench NAME [--quick]`. Progress on stderr; the last line of stdout is one JSON object.

Claims about performance are ratios against a baseline of the same run: these figures are not tests.
"""
