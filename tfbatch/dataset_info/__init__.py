"""What is known of a data set: its recipe, or where a user's own comes from; content, classes."""
