"""The cluster daemon: DHCP host maps and interface topology of one site."""
