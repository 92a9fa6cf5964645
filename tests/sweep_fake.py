"""An estimator training that trains nothing: the files of one, a row per round, in milliseconds.

Run as a program it is a worker: python tests/sweep_fake.py SWEEP_FOLDER SECONDS_PER_ROUND
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from p2r_jax.estimator.train import REPORT
from p2r_jax.files import as_record, write_json
from p2r_jax.policy.logging import MetricLog, read_rows
from p2r_jax.runs import programs
from p2r_jax.runs.folder import STATE_FILE
from p2r_jax.sweep import spec
from p2r_jax.sweep.worker import Worker

WORK_LOG = "work.log"  # beside the runs: a line for every round that was worked on
SAVED_LOG = "saved.log"  # and one for every run that was interrupted and had time to save


def fake_program(seconds: float = 0.0, fail: str = "", save_s: float = 0.0):
    """The estimator's program with a run that writes its files; ``fail`` in a folder raises.

    A round takes ``seconds``; an interrupted run takes ``save_s`` to save.
    """
    real = programs.program("train-estimator")

    def run(configs):
        for config in map(programs.continued, configs):
            if fail and fail in str(config.out):
                raise RuntimeError(f"no luck with {config.out.name}")
            try:
                train(config, seconds)
            except KeyboardInterrupt:
                time.sleep(save_s)
                with (config.out.parents[2] / SAVED_LOG).open("a") as file:
                    file.write(f"{config.out.parent.name} {config.seed}\n")
                raise

    return replace(real, run=run, check=lambda config: None)


def train(config, seconds: float) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    first = len(read_rows(config.out / "metrics.csv")[1]) if config.resume else 0
    if not config.resume:
        write_json(config.out / "config.json", as_record(config))
    log = MetricLog(config.out, after=first)
    for done in range(first + 1, config.rounds + 1):
        with (config.out.parents[2] / WORK_LOG).open("a") as file:
            file.write(f"{config.out.parent.name} {config.seed} {done}\n")
        time.sleep(seconds)
        log.write(done, {"nll": -float(done)})
        (config.out / STATE_FILE).write_bytes(b"state")
    log.close()
    error = abs(config.learning_rate - 3e-3) + config.members + 1e-3 * config.seed
    row = {"windows": 1, "rmse_cm": error}
    write_json(config.out / REPORT, {"since_contact": {"1-3": row}, "contact_steps_in_window": {}})


if __name__ == "__main__":
    made = fake_program(float(sys.argv[2]))
    spec.program = lambda command: made
    Worker(str(Path(sys.argv[1])))()
