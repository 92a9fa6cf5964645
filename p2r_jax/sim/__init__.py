"""Assets, dynamics and the push environment."""
