"""OpenAI and every server that speaks its chat format, by base URL."""

import base64
from typing import TYPE_CHECKING, Any

from p2r_jax.prior.protocol import Answer, Request, Stop, TransientError, http_error
from p2r_jax.prior.providers import ModelConfig, missing_package

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion


class OpenAiClient:
    """``VlmClient`` for OpenAI-compatible servers."""

    def __init__(self, config: ModelConfig, key: str):
        try:
            import openai
        except ImportError as error:
            raise missing_package("openai", "vlm") from error
        self._config = config
        self._client = openai.OpenAI(
            api_key=key, base_url=config.base_url, timeout=config.timeout_s, max_retries=0
        )

    def ask(self, request: Request) -> Answer:
        """See ``VlmClient.ask``."""
        import openai
        import pydantic

        try:
            response = self._client.chat.completions.create(**to_call(request, self._config))
        except openai.APIStatusError as error:
            raise http_error(
                "openai", error.status_code, error.message, error.response.headers
            ) from error
        except (openai.APIError, pydantic.ValidationError, ValueError) as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise TransientError(f"openai: {type(error).__name__}: {error}{cause}") from error
        return to_answer(response)


def to_call(request: Request, config: ModelConfig) -> dict[str, Any]:
    """Arguments of ``chat.completions.create`` for a request."""
    data = base64.b64encode(request.photo.png).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": request.prompt},
    ]
    call: dict[str, Any] = {
        "model": config.name,
        "messages": [{"role": "user", "content": content}],
    }
    if config.temperature is not None:
        call["temperature"] = config.temperature
    if config.max_output_tokens is not None:
        call["max_completion_tokens"] = config.max_output_tokens
    if request.schema is not None:
        form = {"name": "estimate", "strict": True, "schema": dict(request.schema)}
        call["response_format"] = {"type": "json_schema", "json_schema": form}
    return call


def to_answer(response: "ChatCompletion") -> Answer:
    """The first choice.

    Raises:
      TransientError: if the server sent something that is no chat completion.
    """
    choices = getattr(response, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise TransientError("openai: a response without choices")
    message, reason, usage = choices[0].message, choices[0].finish_reason, response.usage
    return Answer(
        text=message.refusal or message.content or "",
        stop="refused" if message.refusal else stop_word(reason),
        model=response.model or "unknown",
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
    )


def stop_word(reason: str | None) -> Stop:
    """OpenAI's finish reason in our three words."""
    if reason in ("stop", None):
        return "complete"
    return "truncated" if reason == "length" else "refused"
