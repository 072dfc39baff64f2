"""What either program needs to be a daemon."""
