"""The HTTP API, on real sockets in front of scripted use cases."""
