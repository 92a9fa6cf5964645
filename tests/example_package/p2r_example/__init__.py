"""What a user's own package looks like: one module per thing that it adds."""
