"""System identification: recovers what made the pushes, says no more than they show."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_t

from p2r_jax.estimator.hypotheses import DIM, Belief, BeliefConfig, Hypothesis
from p2r_jax.estimator.limit_surface import (
    STUDENT_FREEDOM,
    correlated_student_t,
    friction_wrench,
)
from p2r_jax.estimator.push_motion import Replay, ReplayConfig
from p2r_jax.estimator.smc import SmcConfig, sample
from p2r_jax.estimator.sysid import Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import Segments, body_twist
from p2r_jax.sim.asset import load_asset

TRUE_COM = np.array([0.010, -0.030])
RADIUS, FORCE, TOOL = 0.04, 4.0, 0.005


def truth() -> Hypothesis:
    return Hypothesis(
        com=jnp.array(TRUE_COM), radius=jnp.array(RADIUS), friction_pusher=jnp.array(0.3),
        motion_noise=jnp.array(0.1), wrench_noise=jnp.array(0.1), limit_force=jnp.array(FORCE),
        feet=jnp.zeros((3, 2)), load=jnp.ones(3) / 3, core=jnp.array(RADIUS),
        anisotropy=jnp.zeros(2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def asset():
    return load_asset("triangle_150")


@pytest.fixture(scope="module")
def segments(asset) -> Segments:
    """Twelve pushes of the triangle on its three sides, replayed under ``truth``."""
    corners = np.array(asset.parts[0].vertices)
    rng, start, path = np.random.default_rng(0), [], []
    for i in range(12):
        a, b = corners[i % 3], corners[(i + 1) % 3]
        along = (b - a) / np.linalg.norm(b - a)
        normal = np.array([along[1], -along[0]])
        touch = a + rng.uniform(0.2, 0.8) * (b - a) + TOOL * normal
        angle = rng.uniform(-0.5, 0.5)
        way = -(np.cos(angle) * normal + np.sin(angle) * along)
        start.append(np.zeros(3))
        path.append(touch + np.linspace(0, 0.015, 13)[:, None] * way)
    start, path = np.array(start, np.float32), np.array(path, np.float32)
    replay = Replay(asset, TOOL, ReplayConfig())
    end = np.asarray(jax.jit(jax.vmap(replay.final_pose, (None, 0, 0)))(truth(), start, path))
    twist = body_twist(start, end)
    at_com = twist.copy()
    at_com[:, 0] -= TRUE_COM[1] * twist[:, 2]
    at_com[:, 1] += TRUE_COM[0] * twist[:, 2]
    wrench = FORCE * np.array(friction_wrench(truth(), jnp.asarray(at_com)))
    wrench[:, 2] += TRUE_COM[0] * wrench[:, 1] - TRUE_COM[1] * wrench[:, 0]
    return Segments(start, end, path, wrench.astype(np.float32), np.ones(12, bool))


@pytest.fixture(scope="module")
def by_force(asset) -> Sysid:
    """One compilation for the tests that identify from the twelve pushes with force."""
    return Sysid(asset, TOOL, SysidConfig(evidence="force"))


def test_sampler_matches_the_conjugate_posterior():
    data, noise = 1.5, 0.5

    def log_likelihood(z):
        return -0.5 * ((data - z[:, 0]) / noise) ** 2

    found = sample(log_likelihood, 2, jax.random.key(0), SmcConfig(particles=4096))
    variance = 1 / (1 + 1 / noise**2)
    assert float(found.z[:, 0].mean()) == pytest.approx(data * variance / noise**2, abs=0.05)
    assert float(found.z[:, 0].std()) == pytest.approx(variance**0.5, abs=0.05)
    assert float(found.z[:, 1].std()) == pytest.approx(1.0, abs=0.1)


def test_prior_of_the_centre_of_mass_is_flat_over_the_square_not_the_triangle(asset):
    belief = Belief(asset, BeliefConfig())
    com = np.asarray(belief.com(jax.random.normal(jax.random.key(0), (20000, 2))))
    assert np.abs(com).max() <= 0.0751
    quarters = np.histogram2d(*com.T, bins=2, range=[[-0.075, 0.075]] * 2)[0] / len(com)
    assert np.abs(quarters - 0.25).max() < 0.02


def test_feet_blurred_to_their_full_radius_are_the_ellipsoid():
    twist = jnp.array([[1.0, 0.5, 10.0], [0.0, 1.0, -30.0]])
    speed = np.sqrt(np.sum(np.square(twist[:, :2]), 1) + np.square(RADIUS * twist[:, 2]))
    expected = np.column_stack(
        [twist[:, 0] / speed, twist[:, 1] / speed, RADIUS**2 * twist[:, 2] / speed]
    )
    np.testing.assert_allclose(friction_wrench(truth(), twist), expected, rtol=1e-5)


@pytest.mark.parametrize("evidence", ["force", "motion"])
def test_posterior_finds_the_centre_of_mass_and_covers_it(asset, segments, by_force, evidence):
    by = by_force if evidence == "force" else Sysid(asset, TOOL, SysidConfig(evidence=evidence))
    found = by(segments)
    error = np.linalg.norm(np.asarray(found.com_mean) - TRUE_COM)
    assert error < (0.003 if evidence == "force" else 0.006)
    assert bool(found.covers(TRUE_COM))


def test_without_force_mass_and_friction_of_the_table_keep_their_prior(asset, segments):
    config = SysidConfig()
    unfelt = segments.replace(wrench=np.full_like(segments.wrench, np.nan))
    sysid = Sysid(asset, TOOL, replace(config, motion_sampler=SmcConfig(2048, 1, 1, stages=3)))
    assert sysid.evidence_in(unfelt) == "motion"
    found = sysid(unfelt)
    for values, median, spread in (
        (found.mass, asset.mass_kg, config.belief.mass_spread),
        (found.friction_table, config.belief.friction_table, config.belief.friction_table_spread),
    ):
        log = np.log(np.asarray(values) / median)
        assert abs(log.mean()) < 0.1 * spread
        assert log.std() == pytest.approx(spread, rel=0.1)


def test_correlated_student_t_equals_the_textbook_formula():
    rng = np.random.default_rng(0)
    misfit, root = rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 3))
    cov = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(3)
    found = np.asarray(correlated_student_t(jnp.asarray(misfit), jnp.asarray(cov)))
    wanted = [
        multivariate_t.logpdf(m, np.zeros(3), c, STUDENT_FREEDOM)
        for m, c in zip(misfit, cov, strict=True)
    ]
    np.testing.assert_allclose(found - found[0], np.array(wanted) - wanted[0], rtol=1e-3)


def test_closed_form_ends_where_the_planar_dynamics_does(asset, segments):
    belief, z = Belief(asset), jax.random.normal(jax.random.key(5), (16, DIM))

    def poses(engine):
        replay = Replay(asset, TOOL, ReplayConfig(engine=engine))

        def one(v):
            move = jax.vmap(replay.final_pose, (None, 0, 0))
            return move(belief.hypothesis(v), segments.start, segments.path)

        return np.asarray(jax.jit(jax.vmap(one))(z))

    apart = np.abs(poses("quasistatic") - poses("planar"))
    assert np.quantile(apart[..., :2], 0.95) < 4e-4
    assert np.quantile(apart[..., 2], 0.95) < np.radians(0.4)
    assert np.median(apart[..., :2]) < 5e-5


def test_moving_the_flat_prior_by_30_mm_moves_the_estimate_by_less_than_one(
    asset, segments, by_force
):
    elsewhere = SysidConfig(evidence="force", belief=BeliefConfig(com_shift_m=(0.03, 0.0)))
    moved = Sysid(asset, TOOL, elsewhere)(segments).com_mean - by_force(segments).com_mean
    assert np.linalg.norm(np.asarray(moved)) < 1e-3


def test_force_shows_friction_times_mass(segments, by_force):
    found = by_force(segments)
    product = np.asarray(found.mass * found.friction_table) * 9.81
    assert product.mean() == pytest.approx(FORCE, rel=0.05)
    assert product.std() < 0.1 * FORCE


def test_many_equal_pushes_never_claim_more_than_the_shared_error(segments, by_force):
    found = by_force(segments.take(np.tile(np.arange(12), 5)))
    smallest = np.sqrt(np.linalg.eigvalsh(np.asarray(found.com_cov)).min())
    assert smallest > 0.8 * by_force.shared_error_m("force")


def test_force_that_was_not_measured_is_refused(asset, segments):
    unfelt = segments.replace(wrench=np.full_like(segments.wrench, np.nan))
    with pytest.raises(ValueError, match="force_x, force_y"):
        Sysid(asset, TOOL, SysidConfig(evidence="force"))(unfelt)


def test_a_hypothesis_places_its_feet_around_the_centre_of_mass(asset):
    h = Belief(asset).hypothesis(jax.random.normal(jax.random.key(3), (DIM,)))
    np.testing.assert_allclose(h.load @ h.feet, 0.0, atol=1e-6)
    spread = float(h.load @ jnp.sum(h.feet**2, -1) + h.core**2)
    assert spread**0.5 == pytest.approx(float(h.radius), rel=1e-3)
