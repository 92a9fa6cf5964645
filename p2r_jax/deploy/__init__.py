"""Closed loop at run time: one pure step that simulation and hardware share."""
