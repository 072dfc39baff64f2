"""The only SQL of the region."""
