"""What a server promises about time, clients that leave and its own end, tried under load."""
