"""When to stop: the problem as a graph, its exact solution, and how both are estimated from records.

Pure numpy; nothing here knows of models, prompts or text.
"""
