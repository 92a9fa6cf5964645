"""Run folders: what lies in them, how they compare, and whether one can be had again."""
