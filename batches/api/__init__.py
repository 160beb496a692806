"""The routes of files, uploads, batches and the queue."""
