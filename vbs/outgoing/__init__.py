"""HTTP requests that leave this server."""
