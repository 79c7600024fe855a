"""Experiments over recorded outcomes: what a part is worth, measured on rows that fitted nothing."""
