"""The laboratory: network namespaces, real DHCP servers and real DHCP clients, for tests and demonstrations."""
