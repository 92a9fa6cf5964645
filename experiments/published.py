"""Where results that the documentation is made from lie."""

from pathlib import Path

from p2r_jax.files import write_json

RESULTS = Path(__file__).parent / "results"


def publish(what: Path | dict, name: str | None = None) -> None:
    """Put a file of a run, or a record, into ``RESULTS``; a file keeps its name unless told."""
    if isinstance(what, dict):
        write_json(RESULTS / name, what)
    else:
        (RESULTS / (name or what.name)).write_bytes(what.read_bytes())
