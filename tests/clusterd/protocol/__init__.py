"""Tests of the words of the link."""
