"""The database admin: Django's own pages for rows."""
