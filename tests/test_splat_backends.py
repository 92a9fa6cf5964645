"""The gsplat backend as far as a machine without CUDA can tell."""

import builtins

import jax
import numpy as np
import pytest
from test_splat_raster import FIELDS, camera, some_splat

from p2r_jax.real2sim.splat.backends import JaxBackend, make_backend
from p2r_jax.real2sim.splat.crops import Crops
from p2r_jax.real2sim.splat.dense import render_dense
from p2r_jax.real2sim.splat.optimise import OptimiserConfig
from p2r_jax.real2sim.splat.tiles import RasterSettings

HOW = "needs torch: build/torch/bin/python -m pytest tests/test_splat_backends.py"


def make(name):
    return make_backend(name, OptimiserConfig(), 0.1, 50, 0, RasterSettings())


def test_jax_is_a_backend_anywhere():
    assert isinstance(make("jax"), JaxBackend)


def test_without_torch_the_gsplat_backend_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_gsplat(name, *arguments, **keywords):
        if name in ("torch", "gsplat"):
            raise ImportError(name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_gsplat)
    with pytest.raises(
        ImportError, match=r"p2r_jax\[real2sim\].*--splat\.backend jax runs anywhere"
    ):
        make("gsplat")


@pytest.fixture
def torch():
    found = pytest.importorskip("torch", reason=HOW)
    pytest.importorskip("gsplat", reason=HOW)
    return found


@pytest.mark.parametrize("name", ["gsplat", "gsplat-2dgs"])
def test_without_cuda_the_gsplat_backend_says_what_to_do(torch, name):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ImportError, match=r"needs an NVIDIA GPU.*backend jax runs anywhere"):
        make(name)


def test_a_splat_survives_the_way_to_torch_and_back(torch):
    from p2r_jax.real2sim.splat.gsplat_backend import from_torch, to_torch

    tensors = to_torch(some_splat(), "cpu")
    assert all(tensors[name].requires_grad for name in FIELDS)
    back = from_torch(tensors)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(some_splat(), name))


class StandIn:
    """``gsplat.rasterization`` by its own projection and harmonics, every pixel with every one."""

    def __init__(self, torch):
        from gsplat.cuda import _torch_impl

        self.torch, self.reference = torch, _torch_impl

    def rasterization(
        self, means, quats, scales, opacities, colors, sh_degree, viewmats, Ks, width, height,
        near_plane, eps2d, render_mode, rasterize_mode,
    ):  # fmt: skip
        assert (render_mode, rasterize_mode) == ("RGB+ED", "antialiased")
        torch, ref = self.torch, self.reference
        covariances, _ = ref._quat_scale_to_covar_preci(quats, scales, True, False, triu=False)
        _, at, depth, conics, shares = ref._fully_fused_projection(
            means, covariances, viewmats, Ks, width, height, eps2d, near_plane,
            calc_compensations=rasterize_mode == "antialiased",
        )  # fmt: skip
        opacities = opacities * shares[0]
        order = depth[0].argsort()
        eye = torch.linalg.inv(viewmats)[0, :3, 3]
        rgb = (ref._spherical_harmonics(sh_degree, means - eye, colors) + 0.5).clamp(min=0)[order]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        d = torch.stack([x, y], -1)[:, :, None] - at[0][order]
        a, b, c = conics[0][order].T
        fall = torch.exp(
            -0.5 * (a * d[..., 0] ** 2 + c * d[..., 1] ** 2) - b * d[..., 0] * d[..., 1]
        )
        raw = opacities[order] * fall
        alpha = torch.where(raw >= 1 / 255, raw.clamp(max=0.99), 0.0)
        clear = torch.cumprod(1 - alpha, -1)
        weight = alpha * torch.cat([torch.ones_like(clear[..., :1]), clear[..., :-1]], -1)
        alpha = (1 - clear[..., -1:])[None]
        expected = (weight @ depth[0][order])[None, ..., None] / alpha.clamp(min=1e-10)
        return torch.cat([(weight @ rgb)[None], expected], -1), alpha, {}


@pytest.fixture
def on_cpu(torch, monkeypatch):
    """The 3DGS backend with a stand-in for the CUDA kernels."""
    from p2r_jax.real2sim.splat import gsplat_backend

    monkeypatch.setattr(gsplat_backend, "load_gsplat", lambda: StandIn(torch))
    backend = make("gsplat")
    backend._device = "cpu"
    return backend


def one_crop():
    seen = jax.jit(render_dense)(some_splat(), camera(24, 24))
    rows = seen.rgb, seen.alpha, camera(24, 24).T_camera_world, camera(24, 24).K
    return Crops(*(np.asarray(x)[None] for x in rows))


def test_gsplat_is_called_with_the_meaning_our_rasteriser_has(on_cpu):
    ours = jax.jit(render_dense)(some_splat(), camera())
    theirs = on_cpu.render(some_splat(), camera())
    np.testing.assert_allclose(theirs.rgb, ours.rgb, atol=2e-5)
    np.testing.assert_allclose(theirs.alpha, ours.alpha, atol=2e-5)


def test_a_fit_with_gsplat_learns_and_goes_on_exactly_from_a_checkpoint(on_cpu, tmp_path):
    crops, first = one_crop(), some_splat()
    first = first.replace(sh=0 * first.sh)
    whole, progress = on_cpu.advance(on_cpu.start(first), crops, 12)
    half, early = on_cpu.advance(on_cpu.start(first), crops, 6)
    on_cpu.save(tmp_path / "checkpoint", half)
    again = on_cpu.load(tmp_path / "checkpoint", first)
    assert on_cpu.steps_done(again) == 6
    again, late = on_cpu.advance(again, crops, 6)
    assert late.squared_error < early.squared_error
    assert early.squared_error > progress.squared_error
    for ours, theirs in zip(
        *(jax.tree.leaves(on_cpu.splat(s)) for s in (again, whole)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
