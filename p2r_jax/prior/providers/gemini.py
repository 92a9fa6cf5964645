"""Gemini through google-genai, the maintained client."""

import json
from typing import TYPE_CHECKING, Any

from p2r_jax.prior.protocol import Answer, Request, Stop, TransientError, http_error
from p2r_jax.prior.providers import ModelConfig, missing_package

if TYPE_CHECKING:
    from google.genai.types import GenerateContentResponse


class GeminiClient:
    """``VlmClient`` for Gemini and for servers that speak its format."""

    def __init__(self, config: ModelConfig, key: str):
        try:
            from google import genai
            from google.genai import types
        except ImportError as error:
            raise missing_package("google-genai", "vlm") from error
        assert config.name is not None  # make_client has checked
        self._name, self._config, self._types = config.name, config, types
        options = types.HttpOptions(
            base_url=config.base_url,
            timeout=int(1000 * config.timeout_s),
            retry_options=types.HttpRetryOptions(attempts=1),  # ours are counted and recorded
        )
        self._client = genai.Client(api_key=key, vertexai=False, http_options=options)

    def ask(self, request: Request) -> Answer:
        """See ``VlmClient.ask``."""
        import httpx2
        from google.genai import errors

        broken = (httpx2.TransportError, errors.UnknownApiResponseError, json.JSONDecodeError)
        try:
            response = self._client.models.generate_content(
                model=self._name,
                contents=self._contents(request),
                config=self._options(request),
            )
        except errors.APIError as error:
            headers = getattr(error.response, "headers", None)
            raise http_error("gemini", int(error.code), error.message or "", headers) from error
        except broken as error:
            raise TransientError(f"gemini: {type(error).__name__}: {error}") from error
        return to_answer(response)

    def _contents(self, request: Request) -> list[Any]:
        picture = self._types.Part.from_bytes(data=request.photo.png, mime_type="image/png")
        return [picture, request.prompt]

    def _options(self, request: Request) -> Any:
        structured: dict[str, Any] = {}
        if request.schema is not None:
            structured = {
                "response_mime_type": "application/json",
                "response_json_schema": dict(request.schema),
            }
        return self._types.GenerateContentConfig(
            temperature=self._config.temperature,
            max_output_tokens=self._config.max_output_tokens,
            automatic_continuation=False,  # one call is one request
            automatic_function_calling=self._types.AutomaticFunctionCallingConfig(disable=True),
            **structured,
        )


def to_answer(response: "GenerateContentResponse") -> Answer:
    """The first candidate; a prompt or an answer that was blocked is a refusal.

    Raises:
      TransientError: if the server sent neither a candidate nor a reason.
    """
    feedback = response.prompt_feedback
    blocked = feedback.block_reason.name if feedback and feedback.block_reason else None
    if not response.candidates and not blocked:
        raise TransientError("gemini: a response without candidates")
    usage, text = response.usage_metadata, f"prompt blocked: {blocked}"
    stop: Stop = "refused"
    if response.candidates:
        candidate = response.candidates[0]
        parts = (candidate.content.parts or []) if candidate.content else []
        text = "".join(p.text for p in parts if p.text and not p.thought)
        reason = candidate.finish_reason
        stop = stop_word(reason.name if reason else "STOP")
    return Answer(
        text=text,
        stop=stop,
        model=response.model_version or "unknown",
        input_tokens=usage.prompt_token_count if usage else None,
        output_tokens=_output_tokens(usage) if usage else None,
    )


def stop_word(reason: str) -> Stop:
    """Gemini's finish reason in our three words."""
    if reason in ("STOP", "FINISH_REASON_UNSPECIFIED"):
        return "complete"
    return "truncated" if reason in ("MAX_TOKENS", "CONTINUATION") else "refused"


def _output_tokens(usage: Any) -> int | None:
    counts = (usage.candidates_token_count, usage.thoughts_token_count)
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
