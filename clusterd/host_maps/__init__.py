"""The accepted host maps on disk: DHCP outlives the region."""
