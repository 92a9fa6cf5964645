"""What a step says when a capture cannot be used."""

from collections.abc import Sequence
from pathlib import Path


class CaptureError(ValueError):
    """A capture, or what a step made of it, that is not good enough to go on with.

    The message says what was seen, where, and what to do; finished steps stay on disk.

    Attributes:
      views: names of the views (frames) it is about, if any.
      picture: image that shows it, if one was written.
    """

    def __init__(self, message: str, views: Sequence[str] = (), picture: Path | None = None):
        where = f" [{_listed(views)}]" if views else ""
        look = f"; see {picture}" if picture else ""
        super().__init__(message + where + look)
        self.views = tuple(views)
        self.picture = picture


def _listed(views: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(views) - most} more" if len(views) > most else ""
    return ", ".join(views[:most]) + rest
