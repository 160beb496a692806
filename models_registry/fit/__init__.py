"""Whether a model fits into the memory here."""
