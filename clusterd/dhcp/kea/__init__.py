"""Kea's DHCPv4 and DHCPv6 servers: one backend over both, and three ways of giving them host maps."""
