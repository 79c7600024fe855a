"""Requests that have ended: what is remembered of them, and what people say of their answers."""
