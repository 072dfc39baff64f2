"""No server: the host maps in one file."""
