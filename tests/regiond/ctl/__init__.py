"""regionctl, against a real HTTP server."""
