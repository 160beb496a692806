"""The bytes of files, and uploads in parts."""
