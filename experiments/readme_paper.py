"""What the tables of the paper's experiments look like: contents of files to Markdown."""

from readme_layout import grid, interval
from readme_tables import pictures

CRITERION = "hardware"


def paper_tables(record: dict) -> str:
    """Tables I and II and the weight in the middle, beside the paper's numbers."""
    made = [_heading(record)]
    for where, found in record["conditions"].items():
        rows = [row for row in record["rows"] if row["condition"] == where]
        published = record["paper"].get(where, {})
        made.append(f"#### {where}: {_object(found)}\n\n{_methods(rows, published)}")
        made += [_ratio(row) for row in record.get("time_fused_over_dr", ())
                 if row["condition"] == where]  # fmt: skip
    return "\n".join(made)


def _heading(record: dict) -> str:
    first = record["rows"][0]
    world = record["dynamics"]
    return (
        f"**{record['task']} in {world['name']} (version {world['version']})**, "
        f"{first['seeds']} training seeds, {first['trials']} trials each, the same trials for "
        "every method. Success: 3 cm and 20° at the end; strict: 3 cm, 10°, at rest. Brackets: "
        "95 % intervals over training seeds (Student); differences are paired by seed.\n"
    )


def _object(found: dict) -> str:
    prior = found["prior"]
    truth = ", ".join(f"{100 * x:.2f}" for x in found["theta_true_m"])
    said = ", ".join(
        f"{100 * mean:.2f} ± {100 * sigma:.2f} cm"
        for mean, sigma in zip(prior["mean"], prior["sigma"], strict=True)
    )
    return f"CoM {truth} cm, prior {said} ({prior['kind']})"


def _ratio(row: dict) -> str:
    """How much quicker fused is than dr, in a line."""
    paper = "" if row["paper"] is None else f"; paper: {row['paper']:.2f}"
    ratio = interval(row["mean"])
    return f"Median time to first success of trials that succeed, fused / dr: {ratio}{paper}.\n"


def _methods(rows: list[dict], published: dict) -> str:
    methods = [row["method"] for row in rows]
    head = ["method", "success %", "by seed", "strict %", "position cm", "first success s"]
    others = [name for name in ("privileged", "fused") if name in methods]
    head += [f"minus {name}, points" for name in others]
    if published:
        head += ["paper: success %", "paper: position cm"]
    made = []
    for row in rows:
        rate = row[CRITERION]
        own = [
            row["method"], percent(rate["mean"]),
            " / ".join(f"{100 * r:.0f}" for r in rate["per_seed"]), percent(row["strict"]["mean"]),
            interval(row["position_error_m"], 100, 1), interval(row["first_success_s"], 1, 0),
            *(percent(rate["minus"].get(name), "+") for name in others),
        ]  # fmt: skip
        if published:
            success, position, _ = published.get(row["method"], (None, None, None))
            own += ["–" if x is None else f"{x:.{d}f}" for x, d in ((success, 0), (position, 1))]
        made.append(own)
    return grid(head, made)


def prior_quality(record: dict) -> str:
    """Table IV: success of fusion and of the prior alone, by what vision says."""
    made = []
    for row in record["rows"]:
        mean, sigma = row["prior_cm"]
        fused, alone = row["published"]
        made.append([
            f"{mean:g} ± {sigma:g}", *(percent(row[m][CRITERION]) for m in record["methods"]),
            percent(row["difference"], "+"), f"{fused:.0f}", f"{alone:.0f}",
        ])  # fmt: skip
    head = ("prior, cm", *(f"{m}, success %" for m in record["methods"]), "difference, points",
            "paper: fused", "paper: prior alone")  # fmt: skip
    world = record["dynamics"]
    note = (
        f"`{record['task']}` in {world['name']}, weight at top, {record['trials']} trials for each "
        f"of {len(record['training_seeds'])} training seeds; 95 % intervals over seeds, the "
        "difference paired by seed. The paper has 12 trials a cell.\n\n"
    )
    return note + grid(head, made)


def factors(record: dict) -> str:
    """Success at the end by factor and method."""
    methods = list(dict.fromkeys(row["method"] for row in record["rows"]))
    cells: dict[str, dict[str, str]] = {}
    for row in record["rows"]:
        seeds = " / ".join(f"{100 * rate:.0f}" for rate in row["per_seed"])
        text = f"{percent(row['hardware'])} ({seeds})"
        cells.setdefault(row["factor"], {})[row["method"]] = text
    rows = [[name, *(row[m] for m in methods)] for name, row in cells.items()]
    note = (
        f"`{record['task']}`, {record['where']}: success in % over {len(record['seeds'])} training "
        f"seeds (each), {record['trials']} trials a cell; `reality-dev` with one factor as in "
        "`reality-test`.\n\n"
    )
    return note + grid(("factor", *methods), rows)


def wrong_priors(record: dict) -> str:
    """Success with a prior that is wrong and sure, and what it costs."""
    others = record["references"]
    made = [
        [row["case"], row["method"], percent(row["hardware"]),
         " / ".join(f"{100 * rate:.0f}" for rate in row["per_seed"]),
         *(percent(row["minus"][name], "+") for name in others)]
        for row in record["rows"]
    ]  # fmt: skip
    head = ("weight, prior", "method", "success %", "by seed",
            *(f"minus {name}, points" for name in others))  # fmt: skip
    world = record["dynamics"]
    note = (
        f"`{record['task']}` in {world['name']}, {record['trials']} trials for each of "
        f"{len(record['seeds'])} training seeds, those of the table of `{record['task']}`; the "
        f"prior's mean is off by so much, with a sigma of {100 * record['sigma_m']:g} cm. 95 % "
        "intervals over seeds, differences paired by seed.\n\n"
    )
    return note + grid(head, made)


def quality_grid(record: dict, picture: str) -> str:
    """The picture, and its outermost rows with intervals."""
    found = {(row["level"], row["case"], row["method"]): row for row in record["rows"]}
    names = list(dict.fromkeys(row["method"] for row in record["rows"]))
    cases = list(dict.fromkeys(row["case"] for row in record["rows"]))
    made = [
        [interval(found[level, case, names[0]]["estimator_rmse_cm"], digits=1), case,
         *(percent(found[level, case, name]["hardware"]) for name in names)]
        for level in (record["levels"][0], record["levels"][-1])
        for case in cases
    ]  # fmt: skip
    head = ("estimator's RMSE, cm", "weight, prior", *(f"{name}, success %" for name in names))
    size = record["round"]
    note = (
        f"`{record['task']}`, {record['dynamics']['name']} dynamics, {record['trials']} trials for "
        f"each of {len(record['seeds'])} training seeds. The lesser estimators had "
        f"{', '.join(record['levels'][:-1])} rounds of {size['episodes']} episodes and "
        f"{size['steps']} steps of {size['batch']} windows, the best is the shipped one. Worst and "
        "best with 95 % intervals over seeds:\n"
    )
    return f"{pictures(picture)}\n{note}\n{grid(head, made)}"


def estimator_coverage(record: dict) -> str:
    """Error of the estimate, and how often its interval holds the truth."""
    made = [
        [row["task"], row["where"], row["method"], interval(row["rmse_cm"]["mean"]),
         interval(row["sigma_cm"]["mean"]), interval(row["coverage_95"]["mean"], 100, 0),
         " / ".join(f"{100 * rate:.0f}" for rate in row["coverage_95"]["per_seed"])]
        for row in record["rows"]
    ]  # fmt: skip
    head = ("task", "where", "driven by", "RMSE cm", "mean sigma cm", "in the 95 % interval, %",
            "by seed")  # fmt: skip
    worlds = sorted({row["dynamics"] for row in record["rows"] if "dynamics" in row})
    note = (
        f"All windows since an episode's first contact, {len(record['seeds'])} training seeds. "
        "Held-out episodes are in the training dynamics, over all of θ; the others are the trials "
        f"of the tables, in {', '.join(f'`{world}`' for world in worlds)}.\n\n"
    )
    return note + grid(head, made)


def costs(record: dict) -> str:
    """Minutes of every training, and seconds of a cell of the tables."""
    made = [
        [row["task"], row["phase"], str(row["seeds"]),
         *(f"{row[f'minutes_{how}']:.0f}" for how in ("min", "median", "max"))]
        for row in record["trainings"]
    ]  # fmt: skip
    tables = [
        [row["task"], f"{row['cells']} of {row['trials']} trials",
         *(f"{row[f'seconds_{how}']:.0f}" for how in ("min", "median", "max")),
         f"{row['total_minutes']:.0f}"]
        for row in record["tables"]
    ]  # fmt: skip
    return (
        grid(("task", "training", "seeds", "minutes, least", "median", "most"), made)
        + "\n"
        + grid(("task", "cells of the tables", "seconds a cell, least", "median", "most",
                "minutes in all"), tables)
    )  # fmt: skip


def fusion_rules(record: dict) -> str:
    """Success of every rule by what vision says, and the regret it was chosen by."""
    cases = list(record["table"])
    names = [n for n in record["table"][cases[0]] if n not in record["regret"]]
    made = []
    for name in (*names, *record["regret"]):
        rates = [f"{100 * record['table'][c][name]['mean']['value']:.0f}" for c in cases]
        regret = record["regret"].get(name)
        worst = "–" if regret is None else f"{100 * regret['largest']:.1f}"
        made.append([name, *rates, worst])
    world = record["dynamics"]
    note = (
        f"`{record['task']}`, {world['name']} dynamics, {record['trials']} trials for each of "
        f"{len(record['seeds'])} training seeds. Columns: where the weight is, and by how much "
        f"the prior's mean is off, with a sigma of {100 * record['sigma_m']:g} cm. Cells: success "
        "in %. Regret: how far a rule falls below the same policy with the true θ, at worst.\n\n"
    )
    return note + grid(("rule", *cases, "largest regret, points"), made)


def percent(found: dict | None, sign: str = "") -> str:
    """A rate or a difference of rates, in percent or points."""
    return interval(found, 100, 0, sign)
