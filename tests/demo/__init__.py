"""`make demo`, the whole way of an address on real parts, and `make run`, the same daemons left running."""
