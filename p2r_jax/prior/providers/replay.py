"""Answers from a record instead of a model."""

from pathlib import Path

from p2r_jax.prior.protocol import Answer, ProviderError, Request
from p2r_jax.prior.record import read_record


class ReplayClient:
    """``VlmClient`` that answers what an earlier run recorded, whoever was asked then."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(
                f"no record at {path}: --model.replay names the .jsonl beside a prior.json"
            )
        self._path = path
        self._answers = read_record(path).answers

    def ask(self, request: Request) -> Answer:
        """See ``VlmClient.ask``; a request that was never answered is a ProviderError."""
        if request.key not in self._answers:
            raise ProviderError(
                f"{self._path} holds no answer for {request.photo.name}, query {request.query}, "
                f"attempt {request.attempt}: photo, axis, prompt or schema differ from those asked"
            )
        return self._answers[request.key]
