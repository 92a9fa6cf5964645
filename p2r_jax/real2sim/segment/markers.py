"""AprilTags in a frame: they lie beside the object and are never part of it."""

import numpy as np
from jaxtyping import Bool, UInt8

from p2r_jax.real2sim.segment.shapes import opencv

FAMILIES = "DICT_APRILTAG_36h11", "DICT_APRILTAG_25h9"  # 16h5 is found where there is none
PAPER = 1.25  # of a tag's black square: with its white rim


def tags_in(
    rgb: UInt8[np.ndarray, "h w 3"],
) -> tuple[Bool[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Black squares of the tags that are seen whole, and the squares with their white rims.

    The object may stand before a rim, but not before a square that could be read.
    """
    cv2 = opencv()
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    squares, papers = np.zeros(grey.shape, np.uint8), np.zeros(grey.shape, np.uint8)
    for family in FAMILIES:
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, family))
        for corners in cv2.aruco.ArucoDetector(dictionary).detectMarkers(grey)[0]:
            middle = corners.reshape(4, 2).mean(0)
            for drawn, share in ((squares, 1.0), (papers, PAPER)):
                outline = middle + share * (corners.reshape(4, 2) - middle)
                cv2.fillConvexPoly(drawn, np.round(outline).astype(np.int32), 1)
    return squares > 0, papers > 0
