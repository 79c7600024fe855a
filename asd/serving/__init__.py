"""The cascade behind an OpenAI-compatible endpoint: requests, API keys, money."""
