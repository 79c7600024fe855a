"""How commands grow with what they are given."""
