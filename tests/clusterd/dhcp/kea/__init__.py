"""Tests of the backend kea."""
