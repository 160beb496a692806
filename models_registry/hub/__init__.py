"""Brings models from the hub."""
