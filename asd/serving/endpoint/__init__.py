"""The HTTP side: OpenAI's endpoints over a cascade, in pure ASGI."""
