"""What every page is made of: parts, access, charts, words."""
