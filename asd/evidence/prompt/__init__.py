"""What the prompt alone tells: complexity, taxonomy, predictors of success before any answer."""
