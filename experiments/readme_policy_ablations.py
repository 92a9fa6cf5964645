"""What the tables of the policy ablations look like: contents of a file to Markdown."""

from collections.abc import Sequence

from readme_layout import grid, interval

SITUATIONS = {
    "top": "weight at the top",
    "bottom": "weight at the bottom",
    "wrong": "weight at the top, prior 8 cm too low with sigma 1 cm",
}
FUSED = "fused"


def policy_ablations(record: dict, dynamics: str = "training") -> str:
    """Success of every variant, a table per situation; means over training seeds.

    Args:
      record: content of ``policy_ablations.json``.
      dynamics: world that is shown.
    """
    variants = {name: one[dynamics] for name, one in record["variants"].items() if dynamics in one}
    methods = list(
        dict.fromkeys(m for name in variants if _sees_theta(record, name)
                      for m in variants[name]["top"])
    )  # fmt: skip
    parts = [_note(record, variants, dynamics)]
    for situation, title in SITUATIONS.items():
        rows = [_row(name, one[situation], methods) for name, one in variants.items()]
        head = ("variant", *methods, "`fused` minus `base`, by seed", "told theta off by, cm")
        parts.append(f"\n{title.capitalize()}:\n\n{grid(head, rows)}")
    return "".join(parts)


def _row(name: str, cells: dict[str, dict], methods: Sequence[str]) -> list[str]:
    """One variant; what never sees theta stands where ``fused`` does, compared with it."""
    alone = FUSED not in cells
    main = next(iter(cells.values())) if alone else cells[FUSED]
    rates = [_rate(main) if alone and m == FUSED else _rate(cells.get(m)) for m in methods]
    return [
        name,
        *rates,
        interval(main["hardware"].get("minus_base"), 100, 1, "+"),
        _error(main["theta_error_m"]),
    ]


def _note(record: dict, variants: dict[str, dict], dynamics: str) -> str:
    s, size = record["settings"], record["sizes"]
    cell = next(iter(variants["base"]["top"].values()))
    steps = size["base"]["steps"]
    alone = next((one["steps"] for one in size.values() if "noisy" not in one["steps"]), None)
    other = f", policies without theta {_million(sum(alone.values()))}" if alone else ""
    return (
        f"`{s['task']}`, {len(s['seeds'])} training seeds, {cell['n']} trials each in "
        f"{_world(dynamics)}; success at the end (3 cm, 20 deg), %: mean over seeds (each seed), "
        "differences with Student's 95 % interval over seeds, which two seeds make wide. "
        f"{100 * s['scale']:.0f} % of the committed steps: privileged "
        f"{_million(steps['privileged'])}, noisy {_million(steps['noisy'])}{other}; estimators: "
        f"{s['rounds']} rounds of "
        f"{s['episodes']} episodes and {s['steps']} steps. `base`: noise of 1.5 cm, theta along x, "
        "Gaussian head. Policies without theta stand in the column `fused` and are compared with "
        "it.\n"
    )


def _sees_theta(record: dict, name: str) -> bool:
    return record["sizes"][name]["changes"]["phase"] == "noisy"


def _world(dynamics: str) -> str:
    return "its own training dynamics" if dynamics == "training" else f"`{dynamics}`"


def _million(steps: int) -> str:
    return f"{steps / 1e6:g} M"


def _rate(cell: dict | None) -> str:
    if cell is None:
        return "–"
    rate = cell["hardware"]
    each = ", ".join(f"{100 * x:.1f}" for x in rate["per_seed"])
    return f"{100 * rate['mean']['value']:.1f} ({each})"


def _error(cell: dict) -> str:
    value = cell["mean"]["value"]
    return "–" if value is None else f"{100 * value:.2f}"
