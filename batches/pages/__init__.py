"""The pages of batches: overview, queue, history, one batch, its requests, a new one."""
