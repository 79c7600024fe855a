"""Weights on disk: directories of models, LoRA adapters, GGUF files."""
