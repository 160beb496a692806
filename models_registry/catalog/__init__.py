"""Registers models: their names, folders, options and rules."""
