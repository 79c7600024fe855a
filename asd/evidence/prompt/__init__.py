"""What the prompt alone says: complexity, taxonomy, predictors of success before any answer."""
