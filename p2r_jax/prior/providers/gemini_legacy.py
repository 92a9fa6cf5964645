"""Gemini through google-generativeai, whose support ended on 2025-11-30.

It pins an old protobuf, hence an extra of its own. What it sends and receives is
mapped by functions on plain values, which are tested without the package.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from p2r_jax.prior.protocol import Answer, Request, Stop, TransientError, http_error
from p2r_jax.prior.providers import ModelConfig, missing_package
from p2r_jax.prior.providers.gemini import stop_word


class GeminiLegacyClient:
    """``VlmClient`` through google-generativeai, over REST.

    The package keeps its key and server in a global: one such client per process.
    """

    def __init__(self, config: ModelConfig, key: str):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # that it has ended; the README says
                import google.generativeai as genai
        except ImportError as error:
            raise missing_package("google-generativeai", "vlm-legacy") from error
        self._config = config
        server = {"api_endpoint": config.base_url} if config.base_url else None
        genai.configure(api_key=key, transport="rest", client_options=server)
        self._model = genai.GenerativeModel(config.name)

    def ask(self, request: Request) -> Answer:
        """See ``VlmClient.ask``."""
        import requests
        from google.api_core import exceptions
        from google.protobuf.json_format import ParseError

        broken = (exceptions.GoogleAPIError, requests.RequestException, ParseError, ValueError)
        try:
            response = self._model.generate_content(
                **to_call(request, self._config),
                request_options={"timeout": self._config.timeout_s, "retry": None},
            )
        except exceptions.GoogleAPICallError as error:
            headers = getattr(error.response, "headers", None)
            raise http_error(
                "gemini-legacy", int(error.code or 0), error.message, headers
            ) from error
        except broken as error:
            raise TransientError(f"gemini-legacy: {type(error).__name__}: {error}") from error
        return to_answer(response.to_dict())


def to_call(request: Request, config: ModelConfig) -> dict[str, Any]:
    """Arguments of ``GenerativeModel.generate_content`` for a request."""
    generation: dict[str, Any] = {}
    if config.temperature is not None:
        generation["temperature"] = config.temperature
    if config.max_output_tokens is not None:
        generation["max_output_tokens"] = config.max_output_tokens
    if request.schema is not None:
        generation["response_mime_type"] = "application/json"
        generation["response_schema"] = proto_schema(request.schema)
    picture = {"mime_type": "image/png", "data": request.photo.png}
    return {"contents": [picture, request.prompt], "generation_config": generation}


def proto_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema as this API's ``Schema``: types in capitals, no ``additionalProperties``."""
    known = {k: v for k, v in schema.items() if k in ("required", "description")}
    known["type"] = schema["type"].upper()
    if "properties" in schema:
        known["properties"] = {k: proto_schema(v) for k, v in schema["properties"].items()}
    return known


def to_answer(response: Mapping[str, Any]) -> Answer:
    """An answer from ``GenerateContentResponse.to_dict()``.

    Raises:
      TransientError: if the server sent neither a candidate nor a reason.
    """
    candidates = response.get("candidates") or []
    blocked = (response.get("prompt_feedback") or {}).get("block_reason")
    if not candidates and not blocked:
        raise TransientError("gemini-legacy: a response without candidates")
    text = f"prompt blocked: {blocked}"
    stop: Stop = "refused"
    if candidates:
        parts = (candidates[0].get("content") or {}).get("parts") or []
        text = "".join(part.get("text", "") for part in parts)
        stop = stop_word(_reason(candidates[0].get("finish_reason")))
    usage = response.get("usage_metadata") or {}
    return Answer(
        text=text,
        stop=stop,
        model=response.get("model_version") or "unknown",
        input_tokens=usage.get("prompt_token_count"),
        output_tokens=usage.get("candidates_token_count"),
    )


def _reason(value: int | str | None) -> str:
    """Finish reason by name; the package gives its number (2 is the token limit)."""
    if isinstance(value, str):
        return value
    return {None: "STOP", 0: "STOP", 1: "STOP", 2: "MAX_TOKENS"}.get(value, "OTHER")
