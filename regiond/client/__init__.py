"""Clients of the HTTP API: what an answer means (pure), and the client for programs on Twisted.

`regionctl` has a transport of its own, which blocks and starts fast; what it makes of answers is the same.
"""
