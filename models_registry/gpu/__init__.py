"""The loop of a GPU worker: the arbiter, loads, operations, lanes of remote models."""
