"""How fast models were, from measurements."""
