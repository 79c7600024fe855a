"""Controllers: what the load changes about the policy. Ours sees the queues; others are for comparison."""
