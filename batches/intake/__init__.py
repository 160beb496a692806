"""A batch from its creation to its rows: reading and validation of the input file."""
