"""What is promised about a policy: p-values, the certificate, and the monitor that watches it."""
