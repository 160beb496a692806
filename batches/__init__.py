"""Files, batches and their requests."""
