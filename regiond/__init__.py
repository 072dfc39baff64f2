"""The region daemon: who owns which IP address."""
