"""The choice of the noise without force: weighted hypotheses against the sampler, the score."""

import sys
from pathlib import Path

import numpy as np
import pytest

from p2r_jax.estimator.smc import SmcConfig
from p2r_jax.estimator.sysid import SharedError, SysidConfig
from p2r_jax.estimator.sysid_pushes import segments_of
from p2r_jax.sim.asset import load_asset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def choose(monkeypatch):
    """The script, with its folder on the path."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path])
    import choose_motion_noise

    return choose_motion_noise


def test_weighting_hypotheses_gives_what_the_sampler_gives(choose, tmp_path):
    import synthetic_pushes
    from com_from_real_pushes import Data

    asset, log = load_asset("triangle_150"), synthetic_pushes.separate_pushes(6)
    segments = segments_of(log, asset)
    data = Data(asset, np.array(asset.com_m[:2]), log.tool_radius_m, {"synthetic": segments})
    sampler = SmcConfig(particles=1024, moves=6, last_moves=12)
    alone = SharedError(frame_m=0.0, force_model=0.0, motion_model=0.0)
    sysid = data.sysid(SysidConfig(shared=alone, motion_sampler=sampler), "motion")
    picks = np.array([[0, 1, 2, 3, 5]])
    config = choose.Config(tmp_path / "noise.json", hypotheses=2**13)
    drawn = choose.hypotheses(sysid, segments, picks, config)
    found = choose.weighted(data, sysid, drawn, segments, picks, config.nodes)
    sampled = sysid.many(segments, picks)
    assert found.effective[0] > 200
    off = 1000 * (np.asarray(sampled.com_mean[0]) - data.truth)
    spread = 1000 * np.sqrt(np.diagonal(np.asarray(sampled.com_cov[0])))
    np.testing.assert_allclose(found.off[0], off, atol=0.2 * spread.max())
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.cov[0])), spread, rtol=0.2)


def test_score_and_coverage_of_one_subset_by_hand(choose):
    one = choose.Weighted(np.array([[3.0, 4.0]]), 9 * np.eye(2)[None], np.ones(1))
    found = choose.cell(one, 0.0, 0.15)  # the frame's millimetre makes it 10 mm^2 per axis
    assert found["median_error_mm"] == pytest.approx(5.0)
    assert found["coverage_95"] == 1.0
    assert found["score"] == pytest.approx(0.5 * 2.5 + np.log(2 * np.pi * 10))
    narrow = choose.Weighted(one.off, one.cov / 9, one.effective)
    assert choose.cell(narrow, 0.0, 0.15)["coverage_95"] == 0.0
