"""The pages of models, of the playground and of the system."""
