"""A cascade under load with recorded outcomes of real models: policies side by side, and what they need."""
