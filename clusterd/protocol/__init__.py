"""The only words that the two daemons share."""
