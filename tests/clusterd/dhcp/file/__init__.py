"""Tests of the backend file."""
