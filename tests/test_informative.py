"""Which push next: expected gain, against loops and against common sense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.estimator.informative import GainConfig, Informative
from p2r_jax.estimator.sysid import Sysid
from p2r_jax.estimator.sysid_pushes import Segments
from p2r_jax.sim.asset import load_asset

TOOL = 0.005


@pytest.fixture(scope="module")
def sysid():
    return Sysid(load_asset("triangle_150"), TOOL)


@pytest.fixture(scope="module")
def candidates() -> Segments:
    """Two pushes of the left leg, and one beside the object."""
    far, near = -0.075 - TOOL, np.linspace(0, 0.012, 13)
    paths = [np.column_stack([far + near, np.full(13, y)]) for y in (-0.06, 0.03)]
    paths.append(paths[0] + [0.0, 0.3])
    path = np.array(paths, np.float32)
    empty = np.full((3, 3), np.nan, np.float32)
    return Segments(np.zeros((3, 3), np.float32), empty, path, empty, np.ones(3, bool))


@pytest.mark.parametrize("evidence", ["force", "motion"])
def test_a_push_that_touches_promises_more_than_one_that_misses(sysid, candidates, evidence):
    informative = Informative(sysid, evidence)
    gains = informative.gains(informative.prior(), candidates)
    assert gains[2] == pytest.approx(0.0, abs=1e-3)
    assert gains[:2].min() > 0.1
    assert informative.rank(informative.prior(), candidates)[-1] == 2


def test_gain_equals_a_loop_over_outcomes_and_hypotheses(sysid, candidates):
    config = GainConfig(hypotheses=16, outcomes=4)
    informative = Informative(sysid, "motion", config)
    z = informative.prior()
    found = informative.gains(z, candidates)[0]
    start, path = candidates.start[0], candidates.path[0]
    h = [sysid.belief.hypothesis(row) for row in z]
    end = [np.asarray(sysid.replay.final_pose(one, start, path)) for one in h]
    com = np.array([np.asarray(one.com) for one in h])
    floor = sysid.shared_error_m("motion") ** 2 * np.eye(2)
    keys = jax.random.split(jax.random.split(jax.random.key(config.seed), 3)[0], 4)
    scale, after = np.array([1.0, 1.0, sysid.replay.lever]), []
    for j, key in zip(range(0, 16, 4), keys, strict=True):
        moved = np.linalg.norm((end[j] - start) * scale)
        noise = float(h[j].motion_noise) * moved * np.asarray(jax.random.normal(key, (3,)))
        seen = jnp.asarray(end[j] + noise / scale)[None]
        weight = np.array([
            float(sysid.replay.misfit_log_likelihood(one, e[None], start[None], seen)[0])
            for one, e in zip(h, end, strict=True)
        ])  # fmt: skip
        weight = np.exp(weight - weight.max()) / np.exp(weight - weight.max()).sum()
        after.append(0.5 * np.linalg.slogdet(np.cov(com.T, aweights=weight, ddof=0) + floor)[1])
    before = 0.5 * np.linalg.slogdet(np.cov(com.T, ddof=0) + floor)[1]
    assert found == pytest.approx(before - np.mean(after), abs=1e-3)


def test_a_belief_of_too_few_samples_is_refused(sysid, candidates):
    informative = Informative(sysid, "motion")
    with pytest.raises(ValueError, match="3 samples, 256"):
        informative.gains(informative.prior()[:3], candidates)
