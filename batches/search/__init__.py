"""Search in the prompts and answers of a batch: what is indexed, when, and how it is found."""
