"""The interfaces of this host: what the kernel shows, and what the region is told."""
