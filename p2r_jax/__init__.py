"""p2r_jax: Phys2Real in JAX, on MuJoCo MJX.

Importing the package touches no device, imports no torch and sets no
environment variable.
"""

__version__ = "0.1.0"
