"""The HTTP API: routes, representations and statuses."""
