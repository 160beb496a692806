"""What commands share: a client of our own API, and what is written to a terminal."""
