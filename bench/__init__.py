"""The harness: suites run by pytest, and the gate that judges what they measured against a baseline."""
