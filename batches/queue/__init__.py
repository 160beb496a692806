"""The order in which batches run, and when each will start and end."""
