"""What the commands of batches share."""
