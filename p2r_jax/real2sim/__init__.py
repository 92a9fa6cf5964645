"""From a video or photos of an object to an asset that trains: ``p2r reconstruct``.

Steps, each a folder that the next one reads: frames -> masks -> cameras -> splat -> mesh
-> asset, and a report. Importing this package imports none of the libraries that the
steps need.
"""
