"""The object in every frame: segmenters behind one protocol."""
