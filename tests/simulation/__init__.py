"""One region and its clusters in memory: the real code of both daemons between fakes, and faults between any two steps.

`python -m tests.simulation` runs it; what it asserts is in `watch.py`.
"""
