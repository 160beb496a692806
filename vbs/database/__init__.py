"""PostgreSQL: locks, timeouts, outages."""
