"""The routes of models, of the registry and of direct requests."""
