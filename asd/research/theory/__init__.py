"""Experiments on what the theory says: learning and regret, sensitivity, samples, drafting."""
