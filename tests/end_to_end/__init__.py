"""Both daemons as processes, a real PostgreSQL, real DHCP servers and clients."""
