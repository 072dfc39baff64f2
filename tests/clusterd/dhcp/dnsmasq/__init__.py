"""Tests of the backend dnsmasq."""
