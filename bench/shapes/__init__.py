"""Speed of a ladder's models from their shapes alone, on random weights (`timing-only`)."""
