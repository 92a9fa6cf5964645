"""Every provider goes through its real client, to a server that behaves well and badly."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_vlm_server import REFUSAL, TEXT, FakeVlm

from p2r_jax.prior.parse import answer_schema
from p2r_jax.prior.photos import to_png
from p2r_jax.prior.protocol import (
    Answer,
    Photo,
    ProviderError,
    Request,
    TransientError,
    http_error,
)
from p2r_jax.prior.providers import ModelConfig, gemini_legacy, make_client, without_keys
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.shape import shape_of_asset
from p2r_jax.tasks import load_task

PNG = to_png(np.zeros((8, 8, 3), np.uint8))
PHOTO = Photo("a.png", PNG, "digest")
QUANTITIES = quantities_for(["com_object_x"], shape_of_asset(load_task("push_tblock").object))
SCHEMA = answer_schema(QUANTITIES)
PLAIN, STRUCTURED = Request("Where?", PHOTO), Request("Where?", PHOTO, SCHEMA)
ROOT = Path(__file__).resolve().parent.parent
# The legacy package pins protobuf below 6, the lock file has 7: a venv of its own.
LEGACY_PYTHON = os.environ.get("P2R_LEGACY_PYTHON", str(ROOT / "build/legacy/bin/python"))


@pytest.fixture
def server(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"secret-{name.lower()}")
    for name in ("gemini", "openai"):
        needed = {"gemini": "google.genai", "openai": "openai"}[name]
        if importlib.util.find_spec(needed.split(".")[0]) is None:
            pytest.skip(f"{needed} is not installed: pip install 'p2r_jax[vlm]'")
    with FakeVlm() as fake:
        yield fake


@pytest.fixture(params=["gemini", "openai"])
def client(request, server):
    url = server.url + ("/v1" if request.param == "openai" else "")
    return make_client(request.param, ModelConfig("a-model", url, timeout_s=2.0))


def test_answer_comes_back_word_for_word_with_tokens_and_the_servers_model(client, server):
    assert client.ask(PLAIN) == Answer(TEXT, "complete", "synthetic-fake", 1000, 80)
    (question,) = server.questions
    assert (question.prompt, question.png, question.structured) == ("Where?", PNG, False)
    assert "secret-" in question.key


def test_structured_request_carries_the_schema(client, server):
    client.ask(STRUCTURED)
    (question,) = server.questions
    assert question.structured
    sent = json.dumps(question.body)
    assert '"com_sigma"' in sent
    assert "exclusiveMinimum" not in sent


def test_sampling_settings_are_sent_only_when_they_are_set(server):
    for provider, url in (("gemini", server.url), ("openai", server.url + "/v1")):
        make_client(provider, ModelConfig("m", url)).ask(PLAIN)
        make_client(provider, ModelConfig("m", url, temperature=0.5, max_output_tokens=99)).ask(
            PLAIN
        )
    bare, full = server.questions[0].body, server.questions[1].body
    assert {"temperature", "maxOutputTokens"}.isdisjoint(bare.get("generationConfig", {}))
    assert full["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 99}
    bare, full = server.questions[2].body, server.questions[3].body
    assert {"temperature", "max_completion_tokens"}.isdisjoint(bare)
    assert (full["temperature"], full["max_completion_tokens"]) == (0.5, 99)


@pytest.mark.parametrize("behaviour", ["429", "500", "malformed", "empty", "truncated"])
def test_trouble_that_may_pass_is_transient_and_never_retried_in_secret(client, server, behaviour):
    server.behave = lambda question: behaviour
    with pytest.raises(TransientError) as caught:
        client.ask(PLAIN)
    assert len(server.questions) == 1
    assert caught.value.retry_after_s == (0.01 if behaviour == "429" else None)


def test_silence_is_transient(server):
    server.behave = lambda question: "hang"
    for provider, url in (("gemini", server.url), ("openai", server.url + "/v1")):
        quick = make_client(provider, ModelConfig("m", url, timeout_s=0.3))
        with pytest.raises(TransientError, match=r"(?i)time"):
            quick.ask(PLAIN)


def test_a_wrong_key_is_final_and_named(client, server):
    server.behave = lambda question: "401"
    with pytest.raises(ProviderError, match=r"HTTP 401: .*made-up 401") as caught:
        client.ask(PLAIN)
    assert not isinstance(caught.value, TransientError)


def test_refusals_and_cut_answers_are_answers(client, server):
    server.behave = lambda question: "refuse"
    refused = client.ask(PLAIN)
    assert refused.stop == "refused"
    assert refused.text in (REFUSAL, "prompt blocked: SAFETY")
    server.behave = lambda question: "cut"
    assert client.ask(PLAIN).stop == "truncated"


def test_no_key_no_model_no_record_and_no_such_provider_are_named(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProviderError, match="GEMINI_API_KEY or GOOGLE_API_KEY"):
        make_client("gemini", ModelConfig("m"))
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        make_client("openai", ModelConfig("m"))
    with pytest.raises(ValueError, match=r"--model\.name"):
        make_client("openai", ModelConfig())
    with pytest.raises(ValueError, match=r"--model\.replay"):
        make_client("replay", ModelConfig())
    with pytest.raises(ValueError, match="'oracle'; there are gemini"):
        make_client("oracle", ModelConfig("m"))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'p2r_jax\[vlm\]'"):
        make_client("openai", ModelConfig("m", "http://127.0.0.1:1"))
    monkeypatch.setitem(sys.modules, "google.generativeai", None)
    with pytest.raises(ImportError, match=r"pip install 'p2r_jax\[vlm-legacy\]'"):
        make_client("gemini-legacy", ModelConfig("m", "http://127.0.0.1:1"))


def test_keys_are_struck_out_of_texts(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123")
    assert without_keys("Incorrect key sk-123 given") == "Incorrect key [OPENAI_API_KEY] given"


def test_retry_after_in_seconds_is_understood_and_dates_are_not_guessed():
    assert http_error("x", 503, "busy", {"retry-after": "7"}).retry_after_s == 7.0
    date = {"retry-after": "Sat, 21 Nov 2026 12:00:00 GMT"}
    assert http_error("x", 429, "busy", date).retry_after_s is None


def test_request_key_depends_on_what_is_asked_and_on_nothing_else():
    same = Request("Where?", Photo("another name", b"other bytes", "digest"))
    assert same.key == PLAIN.key
    others = [
        Request("Where is it?", PHOTO),
        Request("Where?", Photo("a.png", PNG, "another digest")),
        STRUCTURED,
        Request("Where?", PHOTO, query=1),
        Request("Where?", PHOTO, attempt=1),
    ]
    assert len({PLAIN.key, *(other.key for other in others)}) == 6


def test_legacy_request_maps_without_the_package():
    call = gemini_legacy.to_call(STRUCTURED, ModelConfig("m", temperature=0.2))
    assert call["contents"] == [{"mime_type": "image/png", "data": PNG}, "Where?"]
    generation = call["generation_config"]
    assert generation["temperature"] == 0.2
    assert generation["response_schema"] == {
        "type": "OBJECT",
        "required": ["reasoning", "com", "com_sigma"],
        "properties": {
            "reasoning": {"type": "STRING"},
            "com": {"type": "NUMBER"},
            "com_sigma": {"type": "NUMBER"},
        },
    }
    assert gemini_legacy.to_call(PLAIN, ModelConfig("m"))["generation_config"] == {}


def test_legacy_response_maps_without_the_package():
    usage = {"prompt_token_count": 10, "candidates_token_count": 5}
    parts = {"content": {"parts": [{"text": "COM: "}, {"text": "0.3"}]}}

    def answer(**response):
        return gemini_legacy.to_answer({"usage_metadata": usage, "model_version": "v", **response})

    full = answer(candidates=[{**parts, "finish_reason": 1}])
    assert full == Answer("COM: 0.3", "complete", "v", 10, 5)
    assert answer(candidates=[{**parts, "finish_reason": 2}]).stop == "truncated"
    assert answer(candidates=[{"finish_reason": 3}]).stop == "refused"
    assert answer(prompt_feedback={"block_reason": 1}).stop == "refused"
    with pytest.raises(TransientError, match="without candidates"):
        answer()


LEGACY_SCRIPT = """
import json, sys
from p2r_jax.prior.protocol import Photo, ProviderError, Request, TransientError
from p2r_jax.prior.providers import ModelConfig, make_client

url, schema, png = sys.argv[1], json.loads(sys.argv[2]), bytes.fromhex(sys.argv[3])
client = make_client("gemini-legacy", ModelConfig("a-model", url, timeout_s=5.0))
for shape in (None, schema, *[None] * 8):
    try:
        answer = client.ask(Request("Where?", Photo("a", png, "d"), shape))
        print(json.dumps([answer.stop, answer.text, answer.model, answer.output_tokens]))
    except ProviderError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def test_legacy_client_through_its_real_package():
    """The same interface through google-generativeai, in an environment of its own."""
    probe = [LEGACY_PYTHON, "-c", "import google.generativeai"]
    if not Path(LEGACY_PYTHON).exists() or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip(
            f"no google-generativeai in {LEGACY_PYTHON}: python -m venv build/legacy && "
            "build/legacy/bin/pip install google-generativeai==0.8.6, or name another "
            "environment's Python in P2R_LEGACY_PYTHON"
        )
    behaviours = ["ok", "ok", "429", "500", "403", "malformed", "empty", "truncated", "cut",
                  "refuse"]  # fmt: skip
    with FakeVlm(behave=lambda question: behaviours[question.number]) as fake:
        command = [LEGACY_PYTHON, "-c", LEGACY_SCRIPT, fake.url, json.dumps(SCHEMA), PNG.hex()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GEMINI_API_KEY": "secret-legacy"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    # nothing is retried in secret (but a 401, for which google-auth renews credentials)
    assert len(fake.questions) == len(behaviours)
    assert results[0] == results[1] == ["complete", TEXT, "synthetic-fake", 50]
    assert [question.structured for question in fake.questions[:2]] == [False, True]
    assert (fake.questions[0].prompt, fake.questions[0].png) == ("Where?", PNG)
    assert [r[0] for r in results[2:]] == [
        "TransientError", "TransientError", "ProviderError", "TransientError", "TransientError",
        "TransientError", "truncated", "refused",
    ]  # fmt: skip
    assert "secret-legacy" not in done.stdout + done.stderr
