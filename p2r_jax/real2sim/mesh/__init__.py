"""Mesh step: visual hull, fused depth, symmetry, a closed surface that says how good it is."""
