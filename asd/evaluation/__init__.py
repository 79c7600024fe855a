"""What the harness and research share: replay over recorded outcomes, live timing, statistics."""
