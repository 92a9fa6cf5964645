"""Providers of answers, each behind ``VlmClient``; their packages are imported when used."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from p2r_jax.prior.protocol import ProviderError, VlmClient

Provider = Literal["heuristic", "gemini", "gemini-legacy", "openai", "replay"]
KEYS = {
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "gemini-legacy": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai": ("OPENAI_API_KEY",),
}


@dataclass(frozen=True)
class ModelConfig:
    """Which model is asked, and how. Keys come from the environment, never from here.

    Attributes:
      name: of the model at the provider; there is no default, as names come and go.
      base_url: another server that speaks the provider's format.
      temperature: of the sampling; None leaves the provider's default.
      max_output_tokens: limit of one answer, thinking included; None sets none.
      timeout_s: of one request.
      replay: JSONL record to answer from (provider ``replay``).
    """

    name: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    timeout_s: float = 120.0
    replay: Path | None = None

    def __post_init__(self):
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be positive")
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise ValueError(f"max_output_tokens is {self.max_output_tokens}; it must be positive")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"base_url is {self.base_url!r}; it must be http(s)://SERVER...")


def make_client(provider: Provider, config: ModelConfig) -> VlmClient:
    """The client of a provider.

    Raises:
      ImportError: naming the extra to install.
      ValueError: if there is no such provider, or the model or record is not named.
      FileNotFoundError: if there is no such record.
      ProviderError: if the key is not in the environment, or cannot be one.
    """
    if provider == "replay":
        from p2r_jax.prior.providers.replay import ReplayClient

        if config.replay is None:
            raise ValueError("provider 'replay' answers from a record: name it with --model.replay")
        return ReplayClient(config.replay)
    if provider not in KEYS:
        raise ValueError(
            f"no client for provider {provider!r}; there are {', '.join(KEYS)}, replay"
        )
    if not config.name:
        raise ValueError(
            f"provider {provider!r} needs the name of a model: --model.name NAME, "
            "one that the provider lists today"
        )
    key = _key(provider, local=config.base_url is not None)
    if provider == "gemini":
        from p2r_jax.prior.providers.gemini import GeminiClient

        return GeminiClient(config, key)
    if provider == "gemini-legacy":
        from p2r_jax.prior.providers.gemini_legacy import GeminiLegacyClient

        return GeminiLegacyClient(config, key)
    from p2r_jax.prior.providers.openai import OpenAiClient

    return OpenAiClient(config, key)


def settings_of(provider: Provider, config: ModelConfig) -> dict:
    """What answers of one record have in common; no key, and of the URL only the server."""
    return {
        "provider": provider,
        "model": config.name,
        "server": urlsplit(config.base_url).hostname if config.base_url else None,
        "temperature": config.temperature,
        "max_output_tokens": config.max_output_tokens,
        **({"replay": config.replay.name} if config.replay else {}),
    }


def _key(provider: str, local: bool) -> str:
    """The API key from the environment; a server named by URL may do without.

    A key that no HTTP header can carry is refused here: clients would quote it, escaped,
    in their errors, where ``without_keys`` does not find it.
    """
    for name in KEYS[provider]:
        key = os.environ.get(name)
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ProviderError(
                f"{name} in the environment holds blanks, line breaks or other characters "
                "that no key has; set it anew"
            )
        if key:
            return key
    if local:
        return "none"
    raise ProviderError(
        f"provider {provider!r} needs a key in the environment: {' or '.join(KEYS[provider])}"
    )


def missing_package(package: str, extra: str) -> ImportError:
    """The error for a package that is not installed."""
    return ImportError(f"{package} is not installed: pip install 'p2r_jax[{extra}]'")


def without_keys(text: str) -> str:
    """The text with every API key of the environment struck out."""
    for name in {name for names in KEYS.values() for name in names}:
        key = os.environ.get(name)
        if key:
            text = text.replace(key, f"[{name}]")
    return text
