"""Everything that compares, reproduces or reports; nothing outside it and its commands imports it."""
