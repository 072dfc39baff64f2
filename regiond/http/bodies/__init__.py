"""The bodies and queries of requests, by noun. What is not named here is an error."""
