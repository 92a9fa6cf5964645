"""A small training on the devices of a choice: python several_devices.py CHOICE OUT.

Run by ``test_devices.py`` in processes of their own, since the number of CPU devices is
fixed when a process starts.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from p2r_jax.policy.devices import Devices

UPDATES = 6


def main(choice: str, out: Path) -> None:
    """Train, and write the parameters and the learning curve."""
    from test_ppo import small_learner

    num_envs = 16
    devices = Devices(choice, num_envs, num_minibatches=2)
    ppo = small_learner(num_envs=num_envs)
    state = devices.jit_init(ppo.init, num_envs, jax.random.key(0))
    update = devices.jit_update(ppo.update, state, num_envs)
    placed = state.env_state.obs["state"].sharding
    print(f"environments on {len(placed.device_set)} devices", flush=True)
    curve = []
    for number in range(UPDATES):
        state, metrics = update(state)
        curve.append(float(metrics["env/distance"]))
        if number == UPDATES // 2:  # through a checkpoint
            state = devices.place(devices.gather(state), num_envs)
    whole = devices.gather(state)
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "params.npz", *[np.asarray(x) for x in jax.tree.leaves(whole.params)])
    (out / "curve.json").write_text(json.dumps(curve))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
