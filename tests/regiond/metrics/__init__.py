"""What regiond counts."""
