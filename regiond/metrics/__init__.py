"""What this regiond counts and how it is told in Prometheus' text format."""
