"""Direct requests: which engine answers, and what it costs."""
