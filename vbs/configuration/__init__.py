"""Settings, those that can be changed while the server runs, and the audit log."""
