"""What every generated table is laid out with."""

from collections.abc import Sequence


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of ready-made cells."""
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), *(" | ".join(r) for r in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def machine(record: dict) -> str:
    """What a record was measured on, in a line."""
    p = record["provenance"]
    versions = ", ".join(f"{k} {p['versions'][k]}" for k in ("jax", "mujoco", "mujoco-mjx"))
    return (
        f"{p['cores']} cores, {p['cpu']}, {p['device'].split(':')[0]}; {versions}; git {p['git']}."
    )


def interval(found: dict | None, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
    """A value with its interval; a dash where there is none."""
    if found is None or found["value"] is None:
        return "–"
    value, low, high = (
        "–" if x is None else f"{scale * x:{sign}.{digits}f}"
        for x in (found[k] for k in ("value", "low", "high"))
    )
    return f"{value} [{low}, {high}]"
