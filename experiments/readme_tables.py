"""What each generated table of the documentation looks like: contents of files to Markdown."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from readme_layout import grid, machine

from p2r_jax.evaluation.report import markdown

PHASES = {
    "before": "before the object moved",
    "pushing": "contact in the window",
    "away": "after contact has left the window",
}


def results(record: dict) -> str:
    """The tables of ``p2r evaluate``, with the document's title as a line of text."""
    title, *body = markdown(record).splitlines()
    lines = [f"**{title.lstrip('# ')}**", *body]
    return "\n".join(re.sub(r"^## ", "#### ", line) for line in lines) + "\n"


def training(*runs: dict | list) -> str:
    """What training each phase took and how its policy does in its training dynamics."""
    rows = []
    for config, curve in zip(runs[::2], runs[1::2], strict=True):
        last, seconds = curve[-1], training_seconds([row["seconds"] for row in curve])
        by_theta = (f"{100 * last[f'eval/success_theta_{k}']:.0f}" for k in ("low", "mid", "high"))
        rows.append([
            config["phase"], f"{last['step'] / 1e6:.1f} M", f"{seconds / 60:.0f}",
            f"{100 * last['eval/success']:.0f}", " / ".join(by_theta), config["device"],
        ])  # fmt: skip
    head = (
        "phase", "control steps", "minutes", "strict pose at the end, %",
        "θ low / mid / high third, %", "device",
    )  # fmt: skip
    return grid(head, rows)


def training_seconds(clock: Sequence[float]) -> float:
    """Seconds of training in all; a resumed run starts its clock anew."""
    return clock[-1] + sum(a for a, b in pairwise(clock) if b < a)


def estimator(report: dict) -> str:
    """Calibration on held-out episodes, by time since first contact and by contact seen."""
    tables = [
        _calibration(report["since_contact"], "steps since the episode's first contact"),
        _calibration(report["contact_steps_in_window"], "contact steps among the ten it sees"),
    ]
    return f"{report['episodes']} held-out episodes.\n\n" + "\n".join(tables)


def _calibration(by_steps: dict, label: str) -> str:
    rows = []
    for steps, r in by_steps.items():
        if r["windows"]:
            covered = [f"{100 * r[f'coverage_{level}']:.0f}" for level in (50, 80, 95)]
            first, last = steps.split("-")
            name = first if first == last else f"{first} to {last}"
            numbers = [f"{r[k]:.2f}" for k in ("rmse_cm", "sigma_cm", "nll")]
            rows.append([name, f"{r['windows']}", *numbers, " / ".join(covered)])
    head = (
        label, "windows", "RMSE cm", "mean σ cm", "NLL", "in the 50 / 80 / 95 % interval, %",
    )  # fmt: skip
    return grid(head, rows)


def parity_by_support(record: dict) -> str:
    """Error of one push against C MuJoCo, by dynamics and support."""
    name, s = record["settings"]["tasks"][0], record["settings"]
    _, push_m, speed_mps = record["pushes"][name]
    note = (
        f"`{name}`: one {100 * push_m:g} cm push at {100 * speed_mps:g} cm/s, {s['pushes']} random "
        "pushes per support, error against C MuJoCo: median (95th percentile). `motion` is how far "
        "the object moved.\n\n"
    )
    return note + _errors(record["by_support"]) + _met(record, "by_support")


def parity_by_task(record: dict) -> str:
    """The same by object: at each task's own speed, and all quasi-static."""
    own = ", ".join(
        f"`{name}` {100 * push_m:g} cm at {100 * speed:g} cm/s on its {kind}"
        for name, (kind, push_m, speed) in record["pushes"].items()
    )
    return (
        f"At each task's own speed: {own}.\n\n"
        + _errors(record["by_task"])
        + _met(record, "by_task")
        + "\nAll of them quasi-static, 3 cm at 3 cm/s: what the limit surface costs stands in the "
        "rows `planar ellipsoid` and `planar_mjx`.\n\n"
        + _errors(record["by_task_quasi_static"])
        + _met(record, "by_task_quasi_static")
    )


def _errors(cells: dict) -> str:
    rows = []
    for name in next(iter(cells.values())):
        found = ((c[name]["position_mm"], c[name]["yaw_deg"]) for c in cells.values())
        rows.append([name] + [
            f"{p['median']:.2f} ({p['p95']:.2f}) mm, {y['median']:.2f} ({y['p95']:.2f})°"
            for p, y in found
        ])  # fmt: skip
    return grid(("dynamics", *cells), rows)


def _met(record: dict, group: str) -> str:
    lines = []
    for name, wanted in record["targets"]["wanted"].items():
        for statistic, (mm, deg) in wanted.items():
            reached = record["targets"]["met"][group][name][statistic]
            lines.append(f"{name} {statistic} ≤ {mm:g} mm and {deg:g}°: "
                         f"{'met' if reached else 'not met'}")  # fmt: skip
    return "\nMarks, in every column: " + "; ".join(lines) + ".\n"


def throughput(record: dict) -> str:
    """Compile seconds and rates by what is timed, dynamics and batch; medians."""
    rows = []
    for r in record["rows"]:
        rates = (r[f"{kind}_steps_per_s"]["median"] for kind in ("physics", "control"))
        rows.append([
            r["work"], f"{r['dynamics']} ({r['impl']})", f"{r['batch']}", f"{r['substeps']}",
            f"{r['compile_s']:.1f}" if r["compile_s"] else "", *map(_rate, rates),
            *(f"{r[f'{kind}_ratio']:.2f}" for kind in ("physics", "control")),
        ])  # fmt: skip
    head = (
        "what", "dynamics", "batch", "substeps", "compile s", "physics steps/s",
        "control steps/s", "physics / C", "control / C",
    )  # fmt: skip
    skipped = ""
    for reason in dict.fromkeys(r["reason"] for r in record["not_measured"]):
        batches: dict[str, list[str]] = {}
        for r in record["not_measured"]:
            if r["reason"] == reason:
                what = f"{r['work']} {r['dynamics']} ({r['impl']})"
                batches.setdefault(what, []).append(f"{r['batch']}")
        listed = "; ".join(f"{what} at {', '.join(x)}" for what, x in batches.items())
        skipped += f"\nNot measured ({reason}): {listed}.\n"
    return f"{machine(record)}\n\n{grid(head, rows)}{skipped}"


def _rate(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


def throughput_headline(record: dict) -> str:
    """The best rates of the four that matter most, in a short table."""
    kinds = (
        ("planar, physics alone", "dynamics", "planar"),
        ("contact, physics alone", "dynamics", "contact"),
        ("C MuJoCo on the contact scene", "dynamics", "C MuJoCo"),
        ("push environment with resets, planar", "environment", "planar"),
        ("PPO training, planar", "training", "planar"),
    )
    rows = []
    for label, work, dynamics in kinds:
        named = [r for r in record["rows"] if r["dynamics"].split(" (")[0] == dynamics]
        own = named[0]["substeps"]  # the task's; sweeps come later
        fitting = [r for r in named if r["work"] == work and r["substeps"] == own]
        best = max(fitting, key=lambda r: r["control_steps_per_s"]["median"])
        rates = (best[f"{kind}_steps_per_s"]["median"] for kind in ("physics", "control"))
        rows.append([label, f"{best['batch']}", f"{best['substeps']}", *map(_rate, rates)])
    head = ("what", "batch", "substeps", "physics steps/s", "control steps/s")
    return f"{machine(record)}\n\n{grid(head, rows)}"


def tradeoff(record: dict) -> str:
    """Parity error against rate of the contact dynamics, by setting."""
    made = []
    for task, found in record["tasks"].items():
        rows = []
        for r in found["rows"]:
            mm, deg = r["position_mm"], r["yaw_deg"]
            rows.append([
                r["solver"], r["label"] + (" (default)" if r["default"] else ""),
                f"{mm['median']:.2f} ({mm['p95']:.2f})", f"{deg['median']:.2f} ({deg['p95']:.2f})",
                _rate(r["physics_steps_per_s"]), _rate(r["control_steps_per_s"]["median"]),
                f"{r['physics_steps_per_s'] / found['c_mujoco']['physics_steps_per_s']:.2f}",
            ])  # fmt: skip
        head = (
            "solver", "substeps x Newton/line search, impedance", "mm", "deg",
            "physics steps/s", "control steps/s", "physics / C",
        )  # fmt: skip
        made.append(f"`{task}` at {100 * found['speed_mps']:g} cm/s:\n\n{grid(head, rows)}")
    return f"{machine(record)}\n\n" + "\n".join(made)


def prior_latency(record: dict) -> str:
    """Seconds until every question about an object is answered and on disk."""
    s = record["settings"]
    rows = [
        [
            r["provider"], f"{r['queries']}", f"{r['concurrency']}", f"{r['first_s']:.2f}",
            f"{r['seconds']['median']:.2f} ({r['seconds']['max']:.2f})",
        ]
        for r in record["rows"]
    ]  # fmt: skip
    head = ("provider", "questions", "at once", "first run s", "later runs s: median (slowest)")
    note = f"The server answers after {1e3 * s['latency_s']:g} ms.\n\n"
    return note + grid(head, rows)


def first_call(record: dict) -> str:
    """Seconds of the first call by stage, cold and with the compilation cache."""
    parts = list(dict.fromkeys(name for row in record["rows"] for name in row["seconds"]))
    rows = [
        [r["stage"], r["dynamics"], r["cache"]]
        + [f"{r['seconds'][p]['median']:.1f}" if p in r["seconds"] else "" for p in parts]
        for r in record["rows"]
    ]
    mark = f"{record['cold_training_s']:.1f} s, mark {record['target_s']:g} s"
    reached = "met" if record["met"] else "not met"
    note = f"{machine(record)} Cold training compile: {mark}: {reached}.\n\n"
    return note + grid(("stage", "dynamics", "cache", *parts), rows)


def replay(record: dict) -> str:
    """Error of replayed real pushes by condition: median with its interval."""
    methods = list(next(iter(record["errors"].values())))
    rows = []
    for condition, found in record["errors"].items():
        cells = []
        for method in methods:
            p, y = found[method]["position_mm"], found[method]["yaw_deg"]
            cells.append(
                f"{p['value']:.2f} [{p['low']:.2f}, {p['high']:.2f}] mm, {y['value']:.2f}°"
            )
        chosen = record["conditions"].get(condition, {}).get("chosen_on")
        rows.append([condition + (" (settings chosen on it)" if chosen else ""), *cells])
    return grid(("condition", *methods), rows)


def identification(record: dict) -> str:
    """Error of the identified centre of mass by condition and number of pushes."""
    numbers = list(record["tables"])
    rows = []
    for name in record["tables"][numbers[0]]:
        chosen = " (settings chosen on it)" if name in record["development"] else ""
        cells = [name + chosen, f"{record['tables'][numbers[0]][name]['subsets']}"]
        for number in numbers:
            r = record["tables"][number][name]
            cells += [
                f"{r['median_error_mm']:.2f} ({r['p90_error_mm']:.1f})",
                f"{100 * r['coverage_95']:.0f}",
            ]
        rows.append(cells)
    head = ["condition", "subsets"]
    for number in numbers:
        head += [f"{number} pushes: median (90 %) mm", f"{number}: in the 95 % region, %"]
    shift, timing = record["prior_shift"], record["timing"]
    return (
        grid(head, rows) + "\nMoving the prior's mean by 30 mm moves the 20-push estimate by "
        f"{shift['pooled']['median_mm']:.2f} mm (median; another seed of the sampler alone: "
        f"{shift['same prior, another seed']['median_mm']:.2f} mm). A posterior of 20 pushes "
        f"takes {timing['posterior']['median_s']:.2f} s after compilation, an update in the loop "
        f"{1e3 * timing['online update']['median_s']:.1f} ms.\n"
    )


def informative(record: dict) -> str:
    """Error after chosen pushes and after random ones of the same pools."""
    rows = []
    for name, r in record["tables"].items():
        low, high = r["interval_95_mm"]
        rows.append([
            name, f"{r['trials']}", f"{r['chosen_median_mm']:.2f}", f"{r['random_median_mm']:.2f}",
            f"{r['difference_of_means_mm']:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{100 * r['chosen_coverage_95']:.0f}",
        ])  # fmt: skip
    head = (
        "pool", "trials", "chosen: median mm", "random: median mm", "difference of means mm",
        "chosen: in the 95 % region, %",
    )  # fmt: skip
    return grid(head, rows)


def ensemble(record: dict) -> str:
    """What the learned ensemble says of the real runs, by run, pooled, and on their twins."""
    rows = []

    def add(name: str, found: dict) -> None:
        if not found["steps"]:
            return
        mean = [f"{found['median_error_mm']:.1f}", f"{found['rms_error_mm']:.1f}"]
        sigma = " / ".join(f"{s:.1f}" for s in found["mean_sigma_mm"])
        region = (f"{100 * found['region'][level]:.0f}" for level in ("68", "95"))
        rows.append([name, f"{found['steps']}", *mean, sigma, *region])

    for name in ("before", "pushing", "away"):
        add(f"**all runs, {PHASES[name]}**", record["pooled"][name])
    for name, run in record["runs"].items():
        add(f"{name}, once the object moved", run["after"])
    for name, twin in record["twins"].items():
        add(f"simulated twins: {name}", twin["pooled"]["after"])
    head = (
        "steps", "number", "median error mm", "RMS mm", "mean σ x / y mm",
        "in the 68 % region, %", "in the 95 % region, %",
    )  # fmt: skip
    along, behind = record["direction"]["along"], record["direction"]["behind"]
    return (
        f"The training mean is {record['training_mean_error_mm']:.1f} mm off.\n\n"
        + grid(head, rows)
        + f"\nAlong the pushed edge the error is {along['ensemble_mm']:.1f} mm RMS (training mean "
        f"{along['training_mean_mm']:.1f}), across it {behind['ensemble_mm']:.1f} "
        f"({behind['training_mean_mm']:.1f}).\n"
    )


def prior(record: dict) -> str:
    """Error and calibration of every source of a prior, in percent of the object's length."""
    rows = []
    for r in record["rows"]:
        low, high = r["sigma_scale_interval"]
        covered = " / ".join(
            f"{100 * r['coverage'][level]:.0f}" for level in ("0.5", "0.8", "0.95")
        )
        rows.append([
            r["source"], r["kind"], *(f"{100 * r[k]:.1f}" for k in ("mae", "rmse", "mean_sigma")),
            f"{r['nll']:.2f}", f"{r['sigma_scale']:.2f} [{low:.2f}, {high:.2f}]",
            covered, r["note"],
        ])  # fmt: skip
    head = (
        "source", "kind", "mean error %", "RMS %", "mean σ %", "NLL", "fitted σ scale",
        "in the 50 / 80 / 95 % interval, %", "how",
    )  # fmt: skip
    notes = (record["statement"], record["caveat"], f"Sample: {record['sample']}.")
    return "".join(f"{note}\n\n" for note in notes) + grid(head, rows)


def tools(record: dict) -> str:
    """What became of each workshop tool, and what training on one of them gave."""
    rows = []
    for r in record["rows"]:
        size = " x ".join(f"{100 * x:.1f}" for x in r["size_m"])
        theta = " to ".join(f"{100 * x:+.1f}" for x in r["theta_m"])
        rows.append([
            r["tool"], f"{r['parts']}", f"{r['corners']}", f"{100 * r['area_error']:+.1f}",
            f"{1e3 * r['pusher_error_m']:.1f}", size, f"{100 * r['com_uniform_m'][0]:+.2f}",
            f"{100 * r['com_true_m'][0]:+.2f}", theta, f"{r['seconds']:.1f}",
            "; ".join(r["mended"]) or "–",
        ])  # fmt: skip
    head = (
        "tool", "convex parts", "corners", "area %", "outline for the pusher, mm", "size cm",
        "CoM x uniform cm", "CoM x true cm", "θ range cm", "seconds", "mended",
    )  # fmt: skip
    return grid(head, rows) + _learned(record["training"])


def _learned(training: dict | None) -> str:
    if not training:
        return ""
    curve = zip(training["steps"], training["success"], strict=True)
    return (
        f"\nTraining {training['tool']} with the true θ, one seed; strict success in its training "
        "dynamics: "
        + ", ".join(f"{100 * s:.0f} % at {n / 1e6:.1f} M" for n, s in curve)
        + " steps.\n"
    )


def pictures(*names: str) -> str:
    """The pictures under each other, each with its stem as alternative text."""
    return "".join(f"![{Path(name).stem}]({name})\n\n" for name in names).rstrip("\n") + "\n"
