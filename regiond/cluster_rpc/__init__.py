"""The region's end of the links: who is connected, and what clusters report.

Nothing is decided here. What a cluster says is turned into values and handed to the callables of `listeners`; whoever
has something to tell a cluster takes its `Connection` from `Connections`.
"""
