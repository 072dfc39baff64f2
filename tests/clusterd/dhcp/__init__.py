"""Tests of the DHCP server backends."""
