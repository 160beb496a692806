"""To come: people judge and correct answers."""
