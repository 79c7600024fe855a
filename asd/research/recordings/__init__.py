"""Outcomes that somebody else recorded: their format, their answers, our scores beside theirs."""
