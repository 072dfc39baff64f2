"""schemathesis against a region with a real database: the API does what its own OpenAPI document says."""
