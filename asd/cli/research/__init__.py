"""Commands that compare methods on recorded outcomes, or reproduce the study."""
