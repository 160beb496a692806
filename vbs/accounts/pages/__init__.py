"""Signing in, and the pages of keys, people and projects."""
