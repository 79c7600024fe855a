"""Rows in flight over a key-value cache: one that grows with them, and one of a fixed size for CUDA graphs.

Either is a `asd.engines.hf.decoder.Batch`. Scope: tensors and token ids of one model; no text, no queries.
"""
