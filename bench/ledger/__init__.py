"""Attempts to pass a cap on spend and to lose money by killing the server (`python -m bench.ledger`)."""
