"""Step 3: where the pictures were taken from, in metres, over the table."""
