"""What the tables of the ablations look like: contents of files to Markdown."""

from readme_layout import grid, interval

WORLDS = ("home", "fused", "shifted")


def estimator_ablations(record: dict) -> str:
    """What each change of the estimator gains, mean and interval over training seeds."""
    s, speed = record["settings"], record["speed"]
    rows = []
    for name, one in record["variants"].items():
        home, fused, shifted = (one["worlds"][w]["after first contact"] for w in WORLDS)
        full = one["worlds"]["home"]["10 of the last ten"]
        rows.append([
            name, f"{one['parameters_per_member'] / 1e3:.0f} k", interval(home["rmse_cm"]["mean"]),
            interval(home["rmse_cm"].get("minus_base"), sign="+"),
            interval(full["rmse_cm"]["mean"]), interval(home["nll"]["mean"]),
            interval(shifted["rmse_cm"]["mean"]),
            *(interval(w["coverage_95"]["mean"], 100, 0) for w in (home, fused, shifted)),
        ])  # fmt: skip
    head = (
        "variant", "parameters per member", "RMSE cm", "minus base, by seed", "RMSE cm, ten of "
        "the last ten steps in contact", "NLL", "RMSE cm, shifted", "in the 95 % interval, %",
        "the same, fused-driven", "the same, shifted",
    )  # fmt: skip
    note = (
        f"`{s['task']}`, {len(s['seeds'])} training seeds, mean [95 % interval over seeds], all "
        "windows after an episode's first contact. Each training: "
        f"{_size(s)} (`p2r train-estimator` by default: {_size(record['full_size'])}); "
        f"{s['test_episodes']} held-out episodes per seed and world; policy: {s['policy']}. "
        f"`base`: 10 members, 10 rows, MLP. Shifted: the physics of `{s['shifted']}`.\n\n"
    )
    timed = speed and (
        f"\nTraining `{speed['variant']}` for {speed['seeds']} seeds took "
        f"{speed['one_program_s']:.0f} s in one program, {speed['process_per_seed_s']:.0f} s with "
        f"a process per seed, {speed['processes_at_once']} at once.\n"
    )
    return note + grid(head, rows) + (timed or "")


def _size(s: dict) -> str:
    return f"{s['rounds']} rounds of {s['episodes']} episodes and {s['steps']} steps"
