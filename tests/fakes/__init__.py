"""Stand-ins for the real thing, each held to the same contract as the real thing."""
