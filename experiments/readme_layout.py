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
