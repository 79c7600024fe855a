"""Methods on recorded outcomes, compared on the same folds."""
