"""The output and error files, and the end of a batch."""
