"""Tests of clusterd/daemon."""
