"""The judge: a run against a stored baseline, its verdicts and what they rest on."""
