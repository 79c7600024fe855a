"""Adaptive speculative decoding: a cascade of language models steered by optimal stopping."""
