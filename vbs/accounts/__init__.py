"""Projects, people, roles and API keys."""
