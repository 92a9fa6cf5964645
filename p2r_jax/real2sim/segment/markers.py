"""AprilTags in a frame: they lie beside the object and are never part of it."""

import numpy as np
from jaxtyping import Bool, UInt8

from p2r_jax.real2sim.segment.shapes import opencv

FAMILIES = "DICT_APRILTAG_36h11", "DICT_APRILTAG_25h9"  # 16h5 is found where there is none
PAPER = 1.4  # of a tag's black square: its white rim, and some more


def tags_in(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where whole tags and their white rims are."""
    cv2 = opencv()
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    covered = np.zeros(grey.shape, np.uint8)
    for family in FAMILIES:
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, family))
        for corners in cv2.aruco.ArucoDetector(dictionary).detectMarkers(grey)[0]:
            square = corners.reshape(4, 2)
            paper = square.mean(0) + PAPER * (square - square.mean(0))
            cv2.fillConvexPoly(covered, np.round(paper).astype(np.int32), 1)
    return covered > 0
