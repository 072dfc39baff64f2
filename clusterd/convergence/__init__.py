"""From accepted host maps to a DHCP server that has them."""
