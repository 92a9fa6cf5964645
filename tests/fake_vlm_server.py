"""A server that speaks the wire formats of Gemini and of OpenAI, and misbehaves on request.

    python tests/fake_vlm_server.py [--truth truth.json]

prints its URL and serves until its input is closed. Everything it says is made up: its
model's name starts with "synthetic", so that no prior made of its answers can pass for live.

With ``--truth`` (object name -> centre of mass on the scale -1 to +1) it plays a model that
is half as sure as it should be: answers are off by 0.2 (one draw per object and model name)
plus 0.05 (one per answer), while the sigma it states is 0.1.
"""

import argparse
import base64
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

MODEL = "synthetic-fake"
TEXT = "A made-up reason: the head is of metal.\n\nCOM: 0.30 SIGMA: 0.15"
REFUSAL = "I cannot help with that."
OBJECT_ERROR, ANSWER_ERROR, STATED_SIGMA = 0.2, 0.05, 0.1


@dataclass(frozen=True)
class Question:
    """A request as the server understood it.

    Attributes:
      number: counts from 0.
      api: ``gemini`` or ``openai``.
      prompt, png: what was asked about what.
      structured: whether a JSON schema came with it.
      body: the whole request.
      key: API key that came with it.
      path: of the URL.
    """

    number: int
    api: str
    prompt: str
    png: bytes
    structured: bool
    body: dict
    key: str | None
    path: str


Behaviour = Callable[[Question], str]
Text = Callable[[Question], str]


@dataclass
class FakeVlm:
    """The server's state; ``url`` once it runs.

    Attributes:
      behave: what to do with a question: ``ok``, an HTTP status such as ``429``, ``malformed``
        (no JSON), ``empty`` (JSON without an answer), ``truncated`` (the connection breaks
        off within the answer), ``cut`` (the answer ends at the token limit), ``refuse``
        or ``hang`` (no answer until the server is closed).
      text: what to answer.
      latency_s: before every answer.
      questions: all that came in.
      answered: numbers of the questions whose answer was sent completely.
    """

    behave: Behaviour = lambda question: "ok"
    text: Text = lambda question: TEXT
    latency_s: float = 0.0
    questions: list[Question] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    most_at_once: int = 0
    _at_once: int = 0

    def __enter__(self) -> "FakeVlm":
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def enter(self, change: int) -> None:
        with self.lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing when a client hangs up, as tests of time limits and kills make it do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVlm

    def log_message(self, *args):
        pass

    def do_POST(self):
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("x-goog-api-key") or self.headers.get("authorization")
        with fake.lock:
            question = understand(len(fake.questions), self.path, body, key)
            fake.questions.append(question)
        fake.enter(+1)
        time.sleep(fake.latency_s)
        behaviour = fake.behave(question)
        if behaviour == "hang":
            fake.closing.wait()
        fake.enter(-1)
        self._reply(question, behaviour)
        with fake.lock:
            fake.answered.append(question.number)

    def _reply(self, question: Question, behaviour: str) -> None:
        if behaviour.isdigit():
            error = {"error": {"code": int(behaviour), "message": f"made-up {behaviour}",
                               "status": "MADE_UP"}}  # fmt: skip
            extra = {"retry-after": "0.01"} if behaviour == "429" else {}
            return self._send(int(behaviour), json.dumps(error).encode(), extra)
        if behaviour == "malformed":
            return self._send(200, b"<html>a proxy's idea of an answer</html>")
        if behaviour == "empty":
            return self._send(200, b"{}")
        wire = {"gemini": gemini_response, "openai": openai_response}[question.api]
        data = json.dumps(wire(behaviour, self.fake.text(question))).encode()
        if behaviour == "truncated":
            self.close_connection = True
            return self._send(200, data[: len(data) // 2], length=len(data))
        return self._send(200, data)

    def _send(self, status: int, data: bytes, headers: Mapping = {}, length: int | None = None):
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)


def understand(number: int, path: str, body: dict, key: str | None) -> Question:
    """Read either wire format; anything else is an error of the client under test."""
    if path.split("?")[0].endswith(":generateContent"):
        parts = body["contents"][-1]["parts"]
        data = next(p["inlineData"]["data"] for p in parts if "inlineData" in p)
        prompt = next(p["text"] for p in parts if "text" in p)
        generation = body.get("generationConfig", {})
        structured = "responseJsonSchema" in generation or "responseSchema" in generation
        api = "gemini"
    else:
        assert path.endswith("/chat/completions"), path
        content = body["messages"][-1]["content"]
        url = next(p["image_url"]["url"] for p in content if p["type"] == "image_url")
        data = url.removeprefix("data:image/png;base64,")
        prompt = next(p["text"] for p in content if p["type"] == "text")
        structured = body.get("response_format", {}).get("type") == "json_schema"
        api = "openai"
    png = base64.b64decode(data.replace("-", "+").replace("_", "/"))
    return Question(number, api, prompt, png, structured, body, key, path)


def gemini_response(behaviour: str, text: str) -> dict:
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 50, "thoughtsTokenCount": 30}
    if behaviour == "refuse":
        return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage,
                "modelVersion": MODEL}  # fmt: skip
    reason = "MAX_TOKENS" if behaviour == "cut" else "STOP"
    content = {"role": "model", "parts": [{"text": text}]}
    return {
        "candidates": [{"content": content, "finishReason": reason}],
        "usageMetadata": usage,
        "modelVersion": MODEL,
    }


def openai_response(behaviour: str, text: str) -> dict:
    message = {"role": "assistant", "content": text}
    if behaviour == "refuse":
        message = {"role": "assistant", "content": None, "refusal": REFUSAL}
    reason = "length" if behaviour == "cut" else "stop"
    return {
        "id": "made-up", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 80, "total_tokens": 1080},
    }  # fmt: skip


def overconfident_text(truth: Mapping[str, float]) -> Text:
    """Answers of a model whose errors are known; see the module's docstring."""

    def answer(question: Question) -> str:
        name = next(name for name in truth if f": {name}." in question.prompt)
        model = question.body.get("model") or question.path
        off = OBJECT_ERROR * _normal(name, model)
        off += ANSWER_ERROR * _normal(name, model, str(question.number))
        value = float(np.clip(truth[name] + off, -1, 1))
        if question.structured:
            fields = {"reasoning": "made up", "com": value, "com_sigma": STATED_SIGMA}
            return json.dumps(fields)
        return f"Made up.\nCOM: {value:.4f} SIGMA: {STATED_SIGMA}"

    return answer


def _normal(*words: str) -> float:
    seed = int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:8])
    return float(np.random.default_rng(seed).normal())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--truth", type=Path)
    options = parser.parse_args()
    text: Text = lambda question: TEXT  # noqa: E731
    if options.truth:
        text = overconfident_text(json.loads(options.truth.read_text()))
    with FakeVlm(text=text) as fake:
        print(fake.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
