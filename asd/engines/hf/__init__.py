"""The engine on Hugging Face `transformers`: decode loop, verification, speculation, KV caches."""
