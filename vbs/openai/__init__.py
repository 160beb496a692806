"""The wire: objects, errors, lists, ids, authentication."""
