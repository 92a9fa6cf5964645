"""Asking: enough, once, fast, and never for nothing; interrupted anywhere, it goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fake_vlm_server import FakeVlm

from p2r_jax.prior import ask
from p2r_jax.prior.ask import AskConfig, Asker
from p2r_jax.prior.photos import to_png
from p2r_jax.prior.protocol import Answer, Photo, ProviderError, Request, TransientError
from p2r_jax.prior.providers import ModelConfig, make_client
from p2r_jax.prior.providers.replay import ReplayClient
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.record import Record, read_record
from p2r_jax.prior.shape import shape_of_asset
from p2r_jax.tasks import load_task

QUANTITIES = quantities_for(["com_object_x"], shape_of_asset(load_task("push_tblock").object))
PNG = to_png(np.zeros((8, 8, 3), np.uint8))
PHOTOS = [Photo(f"view{i}", PNG, f"digest{i}") for i in range(3)]
FAST = AskConfig(queries=3, concurrency=1, sends=3, backoff_s=0.0)
SETTINGS = {"provider": "stub", "model": "m"}
GOOD = "COM: 0.30 SIGMA: 0.15"


@dataclass
class Stub:
    """A client in memory: the value it answers encodes photo and query."""

    reply: object = None
    asked: list[Request] = field(default_factory=list)

    def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        text = self.reply(request) if self.reply else _text(request)
        return Answer(text, "complete", "synthetic-stub", 10, 1)


def _text(request: Request) -> str:
    return f"COM: 0.{request.photo.name[-1]}{request.query} SIGMA: 0.1"


def run(client, record=None, config=FAST, photos=PHOTOS):
    asker = Asker(client, record, config)
    return asker.ask_all(photos, "Where?", QUANTITIES), asker.tally


def recorded(path, client, config=FAST, photos=PHOTOS):
    record = Record(path, SETTINGS)
    try:
        return run(client, record, config, photos)
    finally:
        record.close()


def test_every_query_about_every_photo_comes_back_in_order():
    outcomes, tally = run(Stub(), config=AskConfig(queries=3, concurrency=4))
    values = [outcome.estimates["com_object_x"].value for outcome in outcomes]
    np.testing.assert_allclose(values, [0.00, 0.01, 0.02, 0.10, 0.11, 0.12, 0.20, 0.21, 0.22])
    assert (tally.sent, tally.reused, tally.failures) == (9, 0, 0)


def test_unusable_answers_are_asked_again_then_excluded():
    def reply(request):
        if request.photo.name == "view1" and request.query == 0:
            return "about a third"
        if request.photo.name == "view2" and request.attempt == 0:
            return "COM: 7 SIGMA: 1"
        return _text(request)

    client = Stub(reply)
    outcomes, tally = run(client)
    excluded = [outcome for outcome in outcomes if outcome.estimates is None]
    assert [(o.photo, o.query, len(o.unusable)) for o in excluded] == [("view1", 0, 3)]
    assert excluded[0].unusable[0][1] == "about a third"
    assert [len(o.unusable) for o in outcomes[6:]] == [1, 1, 1]
    assert tally.sent == 9 + 2 + 3
    assert len({request.key for request in client.asked}) == len(client.asked)


def test_a_server_that_fails_is_asked_again_after_a_growing_wait(monkeypatch):
    waits = []
    monkeypatch.setattr(ask.random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(threading.Event, "wait", lambda self, t=None: waits.append(t))
    wishes = iter([None, None, 7.0, 90.0])

    def reply(request):
        wish = next(wishes, "done")
        if wish != "done":
            raise TransientError("busy", wish)
        return GOOD

    asker = Asker(Stub(reply), None, AskConfig(queries=1, sends=5, backoff_s=1.0))
    answer = asker._answer(Request("Where?", PHOTOS[0]))
    assert answer.text == GOOD
    assert waits == [1.0, 2.0, 7.0, 60.0]
    assert (asker.tally.sent, asker.tally.failures) == (5, 4)


def test_a_server_that_keeps_failing_ends_the_run_and_says_how_to_go_on(tmp_path):
    def reply(request):
        if request.photo.name == "view2":
            raise TransientError("busy")
        return _text(request)

    path = tmp_path / "r.jsonl"
    with pytest.raises(ProviderError, match=r"busy; still so after 3 sends.*run the same command"):
        recorded(path, Stub(reply))
    assert len(read_record(path).answers) == 6
    assert len(read_record(path).unanswered) == 1
    outcomes, tally = recorded(path, Stub())
    assert (tally.sent, tally.reused, len(outcomes)) == (3, 6, 9)


def test_a_final_error_stops_everything_at_once(tmp_path):
    client = Stub(lambda request: (_ for _ in ()).throw(ProviderError("wrong key")))
    with pytest.raises(ProviderError, match="wrong key"):
        recorded(tmp_path / "r.jsonl", client)
    assert len(client.asked) == 1


def test_record_holds_every_request_and_raw_answer(tmp_path):
    path = tmp_path / "r.jsonl"
    recorded(path, Stub())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines[:3]] == ["record", "request", "answer"]
    assert lines[0]["settings"] == SETTINGS
    asked = lines[1]
    assert (asked["prompt"], asked["photo_digest"], asked["query"]) == ("Where?", "digest0", 0)
    assert lines[2]["key"] == asked["key"]
    assert lines[2]["answer"]["text"] == "COM: 0.00 SIGMA: 0.1"
    assert lines[2]["seconds"] >= 0


def test_a_finished_record_answers_everything_again_without_a_request(tmp_path):
    path = tmp_path / "r.jsonl"
    first, _ = recorded(path, Stub())
    silent = Stub(lambda request: pytest.fail("asked again"))
    again, tally = recorded(path, silent)
    assert (again, tally.reused, tally.sent) == (first, 9, 0)
    replayed, _ = run(ReplayClient(path))
    assert replayed == first


def test_replay_of_what_was_never_asked_is_an_error_that_says_what(tmp_path):
    path = tmp_path / "r.jsonl"
    recorded(path, Stub())
    other = [Photo("view9", PNG, "another digest")]
    with pytest.raises(ProviderError, match=r"no answer for view9, query 0, attempt 0"):
        run(ReplayClient(path), photos=other)


def test_cut_off_after_any_byte_a_record_loses_no_whole_answer_and_asks_none_twice(tmp_path):
    """Whatever the moment a process dies, its file is a prefix of the finished one."""
    path = tmp_path / "whole.jsonl"
    whole, _ = recorded(path, Stub())
    data = path.read_bytes()
    places = {0, 1, len(data)}
    for end in [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]:
        places |= {end - 1, end, min(end + 40, len(data))}
    for place in sorted(places):
        part = tmp_path / f"{place}.jsonl"
        part.write_bytes(data[:place])
        kept = read_record(part).answers
        whole_lines = data[: data.rfind(b"\n", 0, place) + 1]
        assert len(kept) == whole_lines.count(b'{"kind": "answer"')
        client = Stub()
        outcomes, tally = recorded(part, client)
        assert outcomes == whole
        assert tally.sent == len(client.asked) == 9 - len(kept)
        assert {request.key for request in client.asked}.isdisjoint(kept)


def test_one_record_does_not_mix_models(tmp_path):
    path = tmp_path / "r.jsonl"
    recorded(path, Stub())
    with pytest.raises(ValueError, match="with model = 'm', not 'another'"):
        Record(path, SETTINGS | {"model": "another"})


def test_two_runs_do_not_write_one_record_at_once(tmp_path):
    record = Record(tmp_path / "r.jsonl", SETTINGS)
    with pytest.raises(ValueError, match="another run is writing"):
        Record(tmp_path / "r.jsonl", SETTINGS)
    record.close()
    Record(tmp_path / "r.jsonl", SETTINGS).close()


def test_a_file_that_is_no_record_is_named_and_left_alone(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("my notes\n")
    with pytest.raises(ValueError, match=r"notes\.jsonl, line 1 is not a record's"):
        Record(path, SETTINGS)
    assert path.read_text() == "my notes\n"


def test_the_same_photo_twice_is_refused():
    with pytest.raises(ValueError, match="copy shows the same as view0"):
        run(Stub(), photos=[PHOTOS[0], Photo("copy", PNG, "digest0")])


@pytest.mark.parametrize(
    "wrong", [{"queries": 0}, {"concurrency": 0}, {"sends": 0}, {"retries": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AskConfig(**wrong)


@pytest.mark.parametrize("provider", ["gemini", "openai"])
def test_as_many_queries_as_configured_are_in_flight_and_no_more(tmp_path, provider):
    """How fast that is, ``benchmarks/prior_latency.py`` measures."""
    pytest.importorskip("google.genai" if provider == "gemini" else "openai", reason="extra vlm")
    photos = [Photo(f"view{i}", PNG, f"digest{i}") for i in range(5)]
    config = AskConfig()
    full = threading.Barrier(config.concurrency, timeout=60)  # the first ones wait for each other

    def behave(question):
        if question.number < config.concurrency:
            full.wait()
        return "ok"

    with FakeVlm(behave) as fake:
        url = fake.url + ("/v1" if provider == "openai" else "")
        outcomes, _ = recorded(
            tmp_path / "r.jsonl", make_client(provider, ModelConfig("m", url)), config, photos
        )
        assert len(fake.questions) == 25
        assert fake.most_at_once == config.concurrency
    assert all(outcome.estimates for outcome in outcomes)


def test_trouble_of_every_kind_ends_in_the_same_outcomes_as_none(tmp_path):
    """429, 500, broken and empty responses, refusals and prose on the way: all in the record."""
    pytest.importorskip("openai", reason="extra vlm")
    trouble = ["429", "ok", "500", "malformed", "ok", "empty", "truncated", "refuse", "cut", "ok"]
    config = AskConfig(queries=3, concurrency=3, retries=3, sends=40, backoff_s=0.01)
    with FakeVlm() as fake:
        fake.behave = lambda question: trouble[question.number % len(trouble)]
        client = make_client("openai", ModelConfig("m", f"{fake.url}/v1", timeout_s=5))
        outcomes, tally = recorded(tmp_path / "r.jsonl", client, config)
        assert tally.sent == len(fake.questions)
    assert [o.estimates["com_object_x"].value for o in outcomes if o.estimates] == [0.3] * 9
    contents = read_record(tmp_path / "r.jsonl")
    assert not contents.unanswered
    assert tally.failures == tally.sent - len(contents.answers)
    assert "HTTP 429" in (tmp_path / "r.jsonl").read_text()


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_prior_ask as t
from p2r_jax.prior.ask import AskConfig
from p2r_jax.prior.providers import ModelConfig, make_client
client = make_client("openai", ModelConfig("m", sys.argv[1] + "/v1", timeout_s=30))
outcomes, tally = t.recorded(Path(sys.argv[2]), client, AskConfig(queries=4, concurrency=2))
print(len(outcomes), tally.sent, tally.reused)
"""


def test_killed_again_and_again_a_run_loses_and_repeats_nothing(tmp_path):
    """SIGKILL with requests in flight: what was answered is kept, only the rest is asked."""
    pytest.importorskip("openai", reason="extra vlm")
    path, limit, hanging = tmp_path / "r.jsonl", [0], threading.Event()
    environment = {**os.environ, "OPENAI_API_KEY": "secret-key"}

    with FakeVlm() as fake:

        def behave(question):
            with fake.lock:
                limit[0] -= 1
                left = limit[0]
            if left < 0:
                hanging.set()
                return "hang"
            return "ok"

        fake.behave = behave
        command = [sys.executable, "-c", CHILD, fake.url, str(path), str(Path(__file__).parent)]
        known = 0
        for answers in (3, 5):
            limit[0] = answers
            hanging.clear()
            child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            assert hanging.wait(60)
            _until(lambda known=known, answers=answers: _answers(path) == known + answers)
            child.send_signal(signal.SIGKILL)
            child.wait()
            known += answers
        limit[0] = 1000
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # 3 photos x 4 queries: the 8 answers before the kills are reused, 4 are asked
        assert done.stdout.split() == ["12", "4", "8"]
        assert len(fake.answered) == 12
    assert len(read_record(path).answers) == 12
    assert "secret-key" not in path.read_text()


def test_ctrl_c_keeps_the_answers_in_flight(tmp_path):
    pytest.importorskip("openai", reason="extra vlm")
    path = tmp_path / "r.jsonl"
    with FakeVlm(latency_s=0.5) as fake:
        command = [sys.executable, "-c", CHILD, fake.url, str(path), str(Path(__file__).parent)]
        environment = {**os.environ, "OPENAI_API_KEY": "k"}
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        _until(lambda: len(fake.questions) >= 3)
        child.send_signal(signal.SIGINT)
        child.wait(30)
        _until(lambda: len(fake.answered) == len(fake.questions))
        assert _answers(path) == len(fake.answered) < 12


def _answers(path: Path) -> int:
    return len(read_record(path).answers) if path.exists() else 0


def _until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
