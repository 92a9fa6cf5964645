"""The live view: its protocol over plain HTTP, and the page in a real browser."""

import http.client
import json
import math
import os
import subprocess
import sys
import threading
import time
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from headless_browser import Browser, chromium
from PIL import Image
from test_deploy_record import header, step

from p2r_jax.deploy.live import LiveView
from p2r_jax.deploy.live.server import SHOWN, SHOWN_STEPS

STEP_BUDGET_S = 1e-3  # what the loop allows the view
PATIENCE_S = 10.0
OBJECT, ALARM = (237, 158, 51), (195, 32, 47)


@pytest.fixture
def view():
    view = LiveView(header())
    yield view
    view.close()


def connect(view) -> http.client.HTTPConnection:
    where = urlsplit(view.url)
    return http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE_S)


def ask(view, method: str, path: str, **headers):
    connection = connect(view)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


class Listener:
    """Reads the stream of events."""

    def __init__(self, view):
        self._connection = connect(view)
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        assert self._answer.getheader("Content-Type") == "text/event-stream"

    def next(self, *names):
        """The next event with one of these names, and its data."""
        while True:
            event = self._answer.readline().decode().removeprefix("event: ").strip()
            data = json.loads(self._answer.readline().decode().removeprefix("data: "))
            assert self._answer.readline() == b"\n"
            if event in names:
                return event, data

    def steps(self, count: int) -> list[dict]:
        """Wait until so many steps have come."""
        found = []
        while len(found) < count:
            found += self.next("steps")[1]
        return found


def test_the_page_stands_alone(view):
    status, page = ask(view, "GET", "/")
    assert status == 200
    text = page.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert 'id="stop"' in text


def test_the_header_is_strict_json(view):
    status, body = ask(view, "GET", "/header")
    assert status == 200
    told = json.loads(body, parse_constant=pytest.fail)
    assert (told["task"], told["goal"]) == ("push_tblock", [0.6, 0.0, 0.5])


def test_steps_arrive_in_order_with_what_the_page_draws(view):
    listener = Listener(view)
    for k in range(30):
        view.update(step(k, object_pose=(math.nan,) * 3))
    got = listener.steps(30)
    assert [s["step"] for s in got] == list(range(30))
    assert set(got[0]) == set(SHOWN)
    assert got[0]["object_pose"] == [None, None, None]
    assert got[0]["estimate_sigma"] == ["Infinity"]


def test_a_page_opened_late_is_told_what_happened_before(view):
    many = 2 * SHOWN_STEPS + 100
    for k in range(many):
        view.update(step(k))
    _, got = Listener(view).next("steps")
    numbers = [s["step"] for s in got]
    assert numbers[-1] == many - 1
    assert len(numbers) <= SHOWN_STEPS
    assert numbers[0] < 3
    assert len(set(np.diff(numbers))) == 1


def test_stop_is_asked_for_with_a_post_only(view):
    listener = Listener(view)
    assert not view.stop_requested
    assert ask(view, "GET", "/stop")[0] == 404
    assert not view.stop_requested
    assert ask(view, "POST", "/stop")[0] == 200
    assert view.stop_requested
    assert listener.next("stop")[0] == "stop"


def test_other_paths_do_not_exist(view):
    assert ask(view, "GET", "/../server.py")[0] == 404
    assert ask(view, "POST", "/")[0] == 404


def test_it_listens_on_this_machine_only(view):
    assert urlsplit(view.url).hostname == "127.0.0.1"
    assert ask(view, "GET", "/", Host="evil.example")[0] == 403
    assert ask(view, "POST", "/stop", Host="evil.example")[0] == 403
    assert not view.stop_requested
    assert ask(view, "GET", "/", Host="localhost:1234")[0] == 200


def test_the_end_is_told_after_the_last_step(view):
    listener = Listener(view)
    view.update(step(0))
    view.close()
    assert listener.next("steps", "end")[0] == "steps"
    assert listener.next("steps", "end")[0] == "end"
    view.close()


def test_a_taken_port_is_named():
    first = LiveView(header())
    port = urlsplit(first.url).port
    with pytest.raises(OSError, match=rf"127.0.0.1:{port} .*choose another port"):
        LiveView(header(), port)
    first.close()


def test_watching_costs_the_loop_far_less_than_a_millisecond(view):
    listener = Listener(view)
    reader = threading.Thread(target=listener.steps, args=(200,))
    reader.start()
    took = []
    for k in range(200):
        start = time.perf_counter()
        view.update(step(k))
        took.append(time.perf_counter() - start)
        time.sleep(0.001)
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert np.median(took) < STEP_BUDGET_S / 10


def test_a_page_that_goes_away_disturbs_nobody(view):
    gone, stays = Listener(view), Listener(view)
    gone._answer.close()
    for k in range(50):
        view.update(step(k))
    assert len(stays.steps(50)) == 50


browser_needed = pytest.mark.skipif(
    chromium() is None, reason="no Chromium here (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def share_of(picture: bytes, color, tolerance=30) -> float:
    """Share of the pixels of a picture that have a colour."""
    pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB")).astype(int)
    return float((np.abs(pixels - np.array(color)).max(-1) < tolerance).mean())


def watched(browser, view, count=40, **changes):
    """The page after some steps, ready."""
    browser.open(view.url)
    browser.wait_for("document.title.includes('push_tblock')")
    for k in range(count):
        view.update(step(k, object_pose=(0.6, 0.01 * (k - 20), 0.02 * k), **changes))
    browser.wait_for(f"document.body.dataset.steps == '{count}'")


@browser_needed
def test_the_page_draws_the_run(browser, view):
    watched(browser, view)
    text = browser.evaluate("document.body.innerText")
    for said in ("running", "step 39", "robot sim", "safety, step 39: step limit", "10 ms old"):
        assert said in text
    assert share_of(browser.screenshot(), OBJECT) > 0.005
    assert browser.evaluate("document.getElementById('banner').offsetHeight") == 0


@browser_needed
def test_what_is_not_known_does_not_break_the_page(browser, view):
    nothing = (math.nan,)
    browser.open(view.url)
    browser.wait_for("document.title.includes('push_tblock')")
    view.update(step(0, object_pose=nothing * 3, pose_stamp_s=math.nan, ee_xy=nothing * 2,
                     fused_mean=nothing, fused_sigma=nothing, theta_used=nothing,
                     target_xy=nothing * 2, sections_s={}))  # fmt: skip
    browser.wait_for("document.body.dataset.steps == '1'")
    assert "not seen" in browser.evaluate("document.body.innerText")
    view.update(step(1))
    browser.wait_for("document.body.dataset.steps == '2'")
    assert "not seen" not in browser.evaluate("document.body.innerText")


@browser_needed
@pytest.mark.parametrize("how", ["click", "key"])
def test_the_button_and_escape_stop_the_run(browser, view, how):
    watched(browser, view, 5)
    assert not view.stop_requested
    if how == "click":
        browser.click("#stop")
    else:
        browser.press("Escape")
    browser.wait_for("document.getElementById('state').textContent == 'stop requested'")
    assert view.stop_requested
    view.close()
    browser.wait_for("document.getElementById('state').textContent == 'run is over'")
    assert browser.evaluate("document.getElementById('stop').disabled")


SERVE = """
import sys, time
sys.path.insert(0, {tests!r})
from test_deploy_record import header, step
from p2r_jax.deploy.live import LiveView
view = LiveView(header())
for k in range(5):
    view.update(step(k))
print(view.url, flush=True)
time.sleep(600)
"""


@browser_needed
def test_a_dead_loop_is_seen_and_a_stop_that_does_not_arrive_is_told(browser):
    script = SERVE.format(tests=os.path.dirname(__file__))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    ) as loop:  # fmt: skip
        browser.open(loop.stdout.readline().strip())
        browser.wait_for("document.body.dataset.steps == '5'")
        loop.kill()
    browser.wait_for("document.getElementById('state').textContent == 'not live'")
    assert "emergency stop" in browser.evaluate("document.body.innerText")
    browser.click("#stop")
    browser.wait_for("document.body.innerText.includes('STOP did not arrive')")
    assert share_of(browser.screenshot(), ALARM) > 0.01
    assert share_of(browser.screenshot(), OBJECT) > 0.005  # the last picture stays
