"""To come: training on such data."""
