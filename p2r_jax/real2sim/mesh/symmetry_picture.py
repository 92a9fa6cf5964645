"""A picture of where an object is not like its mirror image."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from p2r_jax.real2sim.mesh.symmetry import MirrorPlane, surface_distances_to_mirror

if TYPE_CHECKING:
    import trimesh

SIZE, MARGIN = 480, 30  # px
DRAWN = 2  # every so many-th point


def draw_asymmetry(mesh: "trimesh.Trimesh", plane: MirrorPlane, path: Path) -> Path:
    """Write the surface seen from above, redder the further it is from its mirror image.

    The line is the mirror plane; fully red is 5 % of the object's size.
    """
    from PIL import Image, ImageDraw

    points, distances = (x[::DRAWN] for x in surface_distances_to_mirror(mesh, plane))
    low, high = mesh.bounds[:, :2]
    scale = (SIZE - 2 * MARGIN) / (high - low).max()

    def pixels(xy):
        x, y = (np.asarray(xy) - (low + high) / 2).T * scale
        return np.stack([SIZE / 2 + x, SIZE / 2 - y], -1)

    picture = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(picture)
    share = np.clip(distances / (0.05 * np.linalg.norm(mesh.extents)), 0, 1)
    for i in np.argsort(share):
        u, v = pixels(points[i, :2])
        red = round(150 * (1 - share[i]))
        colour = (red + round(220 * share[i]), red, red + round(30 * share[i]))
        draw.ellipse((u - 2, v - 2, u + 2, v + 2), fill=colour)
    along = np.array([-plane.normal[1], plane.normal[0]])
    foot = plane.normal[:2] * plane.offset / max(plane.normal[:2] @ plane.normal[:2], 1e-9)
    foot = foot + along * (along @ ((low + high) / 2 - foot))
    ends = pixels(np.stack([foot - along, foot + along]))
    draw.line([tuple(end) for end in ends], fill=(20, 60, 200), width=2)
    picture.save(path)
    return path
