"""Splat files: the layout viewers read, and files that others wrote."""

import numpy as np
import pytest
from test_splat_raster import FIELDS, some_splat

from p2r_jax.real2sim.splat.ply import read_ply, write_ply

STANDARD = (
    "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
)


def header_of(path):
    return path.read_bytes().partition(b"end_header\n")[0].decode().splitlines()


def write_foreign(path, names, rows, encoding="binary_big_endian", kind="double"):
    """A file as another program might write it."""
    lines = ["ply", f"format {encoding} 1.0", "comment by hand", f"element vertex {len(rows)}"]
    lines += [f"property {kind} {name}" for name in names]
    lines += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    body = " ".join(map(str, rows.ravel())) if encoding == "ascii" else None
    path.write_bytes("\n".join(lines).encode() + (body.encode() if body else rows.tobytes()))


@pytest.mark.parametrize("degree", [0, 1])
def test_a_splat_survives_the_round_trip(tmp_path, degree):
    splat = some_splat(degree=degree)
    write_ply(tmp_path / "splat.ply", splat)
    back = read_ply(tmp_path / "splat.ply")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(splat, name))


def test_the_layout_is_the_standard_one(tmp_path):
    write_ply(tmp_path / "splat.ply", some_splat(degree=0))
    names = [line.split()[2] for line in header_of(tmp_path / "splat.ply") if "property" in line]
    assert names == STANDARD.split()


@pytest.mark.parametrize("encoding", ["ascii", "binary_big_endian"])
def test_degree_three_of_another_program_is_cut_to_one_with_a_warning(tmp_path, encoding):
    rest = [f"f_rest_{i}" for i in range(45)]
    names = STANDARD.split()[::-1] + rest  # any order
    rows = np.random.default_rng(0).normal(size=(5, len(names))).astype(">f8")
    write_foreign(tmp_path / "other.ply", names, rows, encoding)
    with pytest.warns(UserWarning, match="harmonics above degree 1 are left out"):
        splat = read_ply(tmp_path / "other.ply")
    assert splat.sh.shape == (5, 4, 3)
    column = dict(zip(names, rows.T, strict=True))
    np.testing.assert_allclose(splat.means[:, 1], column["y"], rtol=1e-6)
    np.testing.assert_allclose(splat.sh[:, 2, 1], column["f_rest_16"], rtol=1e-6)
    np.testing.assert_allclose(splat.opacity_logits, column["opacity"], rtol=1e-6)


def test_a_mesh_is_no_splat(tmp_path):
    write_foreign(tmp_path / "mesh.ply", ["x", "y", "z"], np.zeros((4, 3), ">f8"))
    with pytest.raises(ValueError, match="holds no splat: vertices have no f_dc_0, f_dc_1, f_dc_2"):
        read_ply(tmp_path / "mesh.ply")


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "splat.ply"
    path.write_text("solid cube")
    with pytest.raises(ValueError, match=r"splat\.ply is no PLY file"):
        read_ply(path)
    write_ply(path, some_splat())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short: 149 of 150 vertices"):
        read_ply(path)
    write_foreign(path, ["x"], np.zeros((1, 1)), encoding="zip")
    with pytest.raises(ValueError, match="format zip is not understood"):
        read_ply(path)
