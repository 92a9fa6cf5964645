"""What is asked of a vision-language model and what comes back, whoever the provider is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

Stop = Literal["complete", "truncated", "refused"]
SYNTHETIC = "synthetic"  # a model whose name starts so made its answers up, for a test


@dataclass(frozen=True)
class Photo:
    """A picture of the object as the model sees it.

    Attributes:
      name: of the file or the view, for a person to read.
      png: the picture with the axis drawn on it.
      digest: SHA-256 of the picture's source and of what was drawn, which unlike
        ``png`` does not depend on the versions of the drawing library.
    """

    name: str
    png: bytes
    digest: str


@dataclass(frozen=True)
class Request:
    """One question to a model.

    Attributes:
      prompt: the text.
      photo: the picture.
      schema: JSON schema of the answer; None asks for free text.
      query: which of the repeated questions about this photo.
      attempt: 0, or how many unusable answers to this query came before.
    """

    prompt: str
    photo: Photo
    schema: Mapping[str, Any] | None = None
    query: int = 0
    attempt: int = 0

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that is asked; the same for every provider."""
        asked = {
            "prompt": self.prompt,
            "photo": self.photo.digest,
            "schema": self.schema,
            "query": self.query,
            "attempt": self.attempt,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """One raw answer.

    Attributes:
      text: as the model wrote it.
      stop: ``complete``, ``truncated`` by a token limit, or ``refused``.
      model: as the server names it; starts with ``SYNTHETIC`` if it is made up.
      input_tokens, output_tokens: as the server counts them (thinking included in
        the output); None if it does not say.
    """

    text: str
    stop: Stop
    model: str
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the answer was made up for a test."""
        return self.model.startswith(SYNTHETIC)


class VlmClient(Protocol):
    """A model that looks at a photo; called from several threads at once."""

    def ask(self, request: Request) -> Answer:
        """One answer, whatever it says; never retries by itself.

        Raises:
          TransientError: if asking again later may help.
          ProviderError: if it will not (key, model name, request).
        """
        ...


class ProviderError(RuntimeError):
    """The provider will not answer; the message says why and what to change."""


class TransientError(ProviderError):
    """The provider did not answer this time.

    Attributes:
      retry_after_s: how long the server wants to be left alone; None if it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None):
        super().__init__(message)
        self.retry_after_s = retry_after_s


def http_error(provider: str, status: int, message: str, headers: Mapping | None) -> ProviderError:
    """The error for an HTTP status: 408, 425, 429 and 5xx are transient."""
    text = f"{provider}: HTTP {status}: {' '.join(str(message).split())[:300]}"
    if status in (408, 425, 429) or status >= 500:
        return TransientError(text, _seconds((headers or {}).get("retry-after")))
    return ProviderError(text)


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:  # an HTTP date; the caller's own back-off serves
        return None
