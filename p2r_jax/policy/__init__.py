"""Physics-conditioned policies: PPO on Brax parts, phases, checkpoints."""
