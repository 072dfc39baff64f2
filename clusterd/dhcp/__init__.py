"""DHCP servers: one module per server behind one interface."""
