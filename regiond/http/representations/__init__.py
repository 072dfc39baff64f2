"""Domain values as the JSON that people and programs see, by noun. Route modules know them as `show`."""
