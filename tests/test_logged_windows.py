"""Windows of runs as experience: from the log of a run to the batch of a training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from simulated_run import recorded, run_of, write_run

from p2r_jax.deploy.record import RecoverConfig, recover
from p2r_jax.deploy.record.pushes import windows_of_run
from p2r_jax.estimator.logged import read_windows
from p2r_jax.estimator.straight_pushes import StraightPushes
from p2r_jax.estimator.train import EstimatorConfig, EstimatorTraining
from p2r_jax.sim.window import window_inputs
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
THETA = 0.0596


@pytest.fixture(scope="module")
def run():
    return run_of(recorded(), TASK)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """What p2r recover makes of one run of a weighed object."""
    folder = tmp_path_factory.mktemp("logged")
    write_run(folder / "run", run)
    out = folder / "dataset"
    recover(RecoverConfig((folder / "run",), out, video=False, theta=(THETA,)))
    return out / "windows.npz"


def training(tmp_path, **changes):
    config = EstimatorConfig(
        TASK, None, tmp_path, members=2, layers=(8,), batch=64, pushes=StraightPushes(), **changes
    )
    return EstimatorTraining(TASK, None, config)


def test_windows_in_the_file_are_those_of_the_run(run, file):
    logged, direct = read_windows([file, file], TASK, TASK.history), windows_of_run(run, 10).window
    count = len(direct.actions)
    assert logged.theta.shape == (2 * count, 1)
    np.testing.assert_allclose(logged.theta, THETA, rtol=1e-6)
    np.testing.assert_array_equal(logged.window.features[count:], direct.features)
    np.testing.assert_array_equal(logged.window.actions[:count], direct.actions)


def test_a_share_of_every_batch_is_logged(tmp_path, file):
    """With simulated rows of zeros and truths of zero, the loss is that of a mixed batch."""
    told = training(tmp_path, logged=(file,), logged_share=0.5)
    params = jax.tree.map(lambda x: x[0], told.init(jax.random.key(0)).params)
    rows, theta = jnp.zeros((3, 20, 10)), jnp.tile(jnp.array(TASK.theta_mean), (3, 1))
    step = jax.jit(told.member_step)
    _, _, loss = step(params, told.optimizer.init(params), jax.random.key(1), rows, theta)

    def nll(x, target):
        mean, log_var = told.net.apply(params, x)
        return 0.5 * log_var + 0.5 * (target - mean) ** 2 * jnp.exp(-log_var)

    logged = read_windows([file], TASK, TASK.history)
    inputs = window_inputs(logged.window, TASK.action_scale_m).reshape(-1, 9, 10)
    real = nll(inputs, told.scaled(logged.theta))
    empty = nll(jnp.zeros((1, 9, 10)), jnp.zeros((1, 1)))
    low, high = (0.5 * float(empty[0, 0]) + 0.5 * float(x) for x in (real.min(), real.max()))
    assert low - 1e-5 < float(loss) < high + 1e-5
    assert abs(float(loss) - float(empty[0, 0])) > 1e-4


def test_without_logs_nothing_changes(tmp_path):
    assert training(tmp_path).logged is None


def test_windows_that_do_not_fit_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="holds windows of task 'push_tblock', not of 'push_h"):
        read_windows([file], load_task("push_hammer"), 10)
    with pytest.raises(ValueError, match=r"windows of 10 rows, the estimator reads 5.*--history"):
        read_windows([file], TASK, 5)
    with pytest.raises(ValueError, match="knows 1 components of theta"):
        read_windows([file], replace(TASK, theta=TASK.theta * 2), 10)
    np.savez(tmp_path / "other.npz", task="push_tblock")
    with pytest.raises(ValueError, match="lacks actions, features"):
        read_windows([tmp_path / "other.npz"], TASK, 10)
    with pytest.raises(ValueError, match="logged_share is 1"):
        training(tmp_path, logged_share=1.0)


def test_a_truth_of_another_size_is_refused(run, tmp_path):
    write_run(tmp_path / "run", run)
    config = RecoverConfig((tmp_path / "run",), video=False, theta=(0.1, 0.2))
    with pytest.raises(ValueError, match="--theta has 2 values; push_tblock has"):
        recover(config)
