"""Seeing a server: metrics, the live page, online evaluation, anomalies, and the log of decisions."""
