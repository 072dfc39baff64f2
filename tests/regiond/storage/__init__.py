"""Tests of the storage: a real PostgreSQL under each."""
