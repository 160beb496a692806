"""A batch on an engine: turns, requests, commits, what happens when an engine dies."""
