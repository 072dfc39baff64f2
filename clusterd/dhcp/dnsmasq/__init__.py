"""dnsmasq: a hosts file, a directory that it watches, and SIGHUP."""
