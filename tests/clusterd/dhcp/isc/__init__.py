"""Tests of the backend isc."""
