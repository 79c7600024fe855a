"""Predictors of success compared, and the taxonomy evaluated."""
