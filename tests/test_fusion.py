"""Phys2Real eqs. 1-4: hand-worked, at the edges, and against the paper's own curve."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.fusion import ensemble_moments, fuse
from p2r_jax.types import Gaussian

PUBLISHED_CURVE = (
    Path(__file__).parents[2] / "shared/data/phys2real_figures/fig6b_rma_vlm_fused.csv"
)
CURVE_TOLERANCE_CM = 1e-3  # read from vector graphics
FILE_ROUNDING_CM = 5e-4  # three decimals; in theta and sigma it alone moves eq. 4 by up to 1.04e-3


def gaussian(mean, sigma):
    return Gaussian(jnp.array([mean], jnp.float32), jnp.array([sigma], jnp.float32) ** 2)


def test_hand_worked_fusion():
    fused = fuse(gaussian(4.0, 1.0), gaussian(6.0, 3.0))
    # weights 1 and 1/9: (4 + 6/9) / (10/9) = 4.2, variance 9/10
    np.testing.assert_allclose(fused.mean, 4.2, rtol=1e-6)
    np.testing.assert_allclose(fused.variance, 0.9, rtol=1e-6)


def test_hand_worked_ensemble_moments():
    moments = ensemble_moments(jnp.array([[1.0], [3.0]]), jnp.array([[0.5], [1.5]]))
    np.testing.assert_allclose(moments.mean, [2.0])
    np.testing.assert_allclose(moments.variance, [1.0 + 1.0])  # epistemic + aleatoric


@pytest.mark.parametrize("a", [0.0, 1e-30, 1.0, 1e30, np.inf])
@pytest.mark.parametrize("b", [0.0, 1e-30, 1.0, 1e30, np.inf])
def test_every_pair_of_variances_gives_a_finite_belief_between_the_two(a, b):
    fused = fuse(
        Gaussian(jnp.array([1.0]), jnp.array([a])), Gaussian(jnp.array([3.0]), jnp.array([b]))
    )
    assert np.isfinite(fused.mean).all()
    assert np.isfinite(fused.variance).all()
    assert 1.0 <= float(fused.mean[0]) <= 3.0


def test_an_infinite_variance_contributes_nothing_and_a_zero_one_decides():
    np.testing.assert_allclose(fuse(gaussian(1.0, np.inf), gaussian(3.0, 2.0)).mean, 3.0)
    np.testing.assert_allclose(fuse(gaussian(1.0, 0.0), gaussian(3.0, 2.0)).mean, 1.0)
    np.testing.assert_allclose(fuse(gaussian(1.0, 0.0), gaussian(3.0, 0.0)).mean, 2.0)
    np.testing.assert_allclose(fuse(gaussian(1.0, np.inf), gaussian(3.0, np.inf)).mean, 2.0)


def test_published_fused_curve_is_reproduced():
    if not PUBLISHED_CURVE.is_file():
        pytest.skip(f"{PUBLISHED_CURVE} is absent: it lies beside the checkout, not in it")
    rows = np.loadtxt(PUBLISHED_CURVE, delimiter=",", comments="#")
    assert rows.shape[0] == 72

    def fused(theta_error, sigma_error):
        theta, sigma = jnp.array(rows[:, 1] + theta_error), jnp.array(rows[:, 2] + sigma_error)
        return np.asarray(fuse(gaussian(4.0, 1.4), Gaussian(theta, sigma**2)).mean)

    errors = (-FILE_ROUNDING_CM, FILE_ROUNDING_CM)
    corners = np.stack([fused(a, b) for a in errors for b in errors])
    published = rows[:, 3]
    beyond = np.maximum(corners.min(0) - published, published - corners.max(0))
    assert beyond.max() < CURVE_TOLERANCE_CM
    np.testing.assert_allclose(fused(0, 0), published, atol=CURVE_TOLERANCE_CM + FILE_ROUNDING_CM)
