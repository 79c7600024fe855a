"""Measuring: timing that interleaves, what the machine was, paired statistics, and the record of a run.

Shared by the harness, the studies and the embedded ladder's own evaluation. Scope: nothing here knows
a policy, a ladder or a verdict; judging a run is the harness's work.
"""
