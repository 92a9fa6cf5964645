"""Gaussian splats: a differentiable JAX rasteriser and fits to calibrated views."""
