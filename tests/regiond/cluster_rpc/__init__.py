"""Tests of the region daemon."""
