"""Online estimation of theta from short histories of interaction."""
