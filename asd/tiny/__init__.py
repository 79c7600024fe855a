"""The embedded ladder: its tasks, its recipe, its weights."""
