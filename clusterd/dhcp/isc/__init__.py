"""ISC dhcpd: OMAPI for IPv4, an included file and a restart for IPv6."""
