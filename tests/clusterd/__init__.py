"""Tests of clusterd."""
