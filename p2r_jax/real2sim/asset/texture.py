"""Vertex colours as a texture, since MuJoCo's meshes carry no colours of their own.

Every triangle gets its own right-angled cell in a square picture, two triangles to a
cell. Its corners' colours are spread over the cell linearly, a pixel beyond the
triangle's edge as well, so that filtering does not bleed a neighbour in.
"""

import io
import math

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8

CELL_PX = 8  # side of a cell; a triangle of reconstructed size covers few photo pixels
MARGIN_PX = 1.5  # from the cell's border to a triangle's corner


def baked(
    mesh: trimesh.Trimesh, colors: UInt8[np.ndarray, "v 3"], cell: int = CELL_PX
) -> tuple[Float[np.ndarray, "f 3 2"], UInt8[np.ndarray, "side side 3"]]:
    """Texture coordinates of every face's corners, and the picture.

    Args:
      mesh: any number of faces.
      colors: of its vertices, RGB.
      cell: side of the square that two triangles share, px.

    Returns:
      coordinates in [0, 1], origin in the lower left corner as in OBJ, and the picture.
    """
    faces = np.asarray(mesh.faces)
    across = math.ceil(math.sqrt(math.ceil(len(faces) / 2)))
    side = across * cell
    picture = np.zeros((side, side, 3), np.uint8)
    number = np.arange(len(faces))
    origin = np.stack([number // 2 % across, number // 2 // across], -1) * cell
    corners = _corners(cell)[number % 2]
    for half in (0, 1):
        mine = number % 2 == half
        rows, columns = _pixels(cell, half)
        weights = _weights(_corners(cell)[half], np.stack([columns, rows], -1) + 0.5)
        shades = np.einsum("pk,fkc->fpc", weights, colors[faces[mine]].astype(float))
        at = origin[mine]
        picture[at[:, 1, None] + rows, at[:, 0, None] + columns] = np.clip(np.round(shades), 0, 255)
    uv = (origin[:, None] + corners) / side
    return np.stack([uv[..., 0], 1 - uv[..., 1]], -1), picture


def _corners(cell: int) -> Float[np.ndarray, "2 3 2"]:
    """Corners of the upper left and the lower right triangle of a cell, px."""
    m, far = MARGIN_PX, cell - MARGIN_PX
    room = 2 * m  # between the two triangles, along either axis
    upper = [[m, m], [far - room, m], [m, far - room]]
    lower = [[far, far], [m + room, far], [far, m + room]]
    return np.array([upper, lower])


def _pixels(cell: int, half: int) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Rows and columns of the half of a cell that belongs to one triangle."""
    rows, columns = np.divmod(np.arange(cell * cell), cell)
    mine = rows + columns < cell - 1 if half == 0 else rows + columns >= cell - 1
    return rows[mine], columns[mine]


def _weights(
    corners: Float[np.ndarray, "3 2"], points: Float[np.ndarray, "p 2"]
) -> Float[np.ndarray, "p 3"]:
    """Barycentric coordinates, continued beyond the triangle."""
    A = np.concatenate([corners, np.ones((3, 1))], 1).T
    return np.linalg.solve(A, np.concatenate([points, np.ones((len(points), 1))], 1).T).T


def textured_files(
    mesh: trimesh.Trimesh, colors: UInt8[np.ndarray, "v 3"], stem: str
) -> dict[str, bytes]:
    """``stem.obj`` and ``stem.png``: the mesh with its colours, ready for MuJoCo."""
    from PIL import Image

    uv, picture = baked(mesh, colors)
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uv.reshape(-1, 2)]
    for index, (a, b, c) in enumerate(np.asarray(mesh.faces) + 1):
        t = 3 * index + 1
        lines.append(f"f {a}/{t} {b}/{t + 1} {c}/{t + 2}")
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG")
    return {f"{stem}.obj": ("\n".join(lines) + "\n").encode(), f"{stem}.png": png.getvalue()}
