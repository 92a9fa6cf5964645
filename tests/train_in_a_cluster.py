"""A tiny ``p2r train`` as one of several processes: python train_in_a_cluster.py OUT [--resume]."""

import sys
from dataclasses import replace
from pathlib import Path

from p2r_jax.policy.train import default_train, train


def main(out: Path, resume: bool) -> None:
    """Two updates on short episodes with two substeps."""
    config = default_train("push_tblock", "privileged", out)
    task = replace(config.task, episode_length=6, planar=replace(config.task.planar, substeps=2))
    ppo = replace(
        config.ppo, total_steps=2 * 8 * 5, num_envs=8, unroll_length=5, num_minibatches=2,
        num_epochs=1, policy_layers=(8,), value_layers=(8,),
    )  # fmt: skip
    train(replace(config, task=task, ppo=ppo, evaluations=2, devices="cluster", resume=resume))
    print("trained", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--resume" in sys.argv)
