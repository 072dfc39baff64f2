"""Tests of `clusterd.probing`."""
