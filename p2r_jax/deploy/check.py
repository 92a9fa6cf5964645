"""``p2r deploy --check``: is everything connected, in one frame, in metres, and in time?

The tip jogs a small square and a line, slowly, around where it stands; nothing may lie
there. Whatever fails says what to do about it.
"""

import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.jog import Jog
from p2r_jax.deploy.protocols import Clock, DeviceError, Robot, Tracker
from p2r_jax.tasks import Task

SCHEMA_VERSION = 1
Outcome = Literal["pass", "fail", "skip"]
MARKS = {"pass": "ok  ", "fail": "FAIL", "skip": "skip"}
MILLI = (900.0, 1100.0)  # scale of millimetres against metres
STILL = 0.2  # a smaller scale than this is no scale
FAR_M = 5.0  # nothing on a table is further from the robot
WENT = 0.5  # who moves by this share of the way has not stopped
NOISE_M = 5e-4  # of a position at rest
FUTURE_S = 0.01  # a pose may seem to come from so far ahead
LOOK = "look at the device: power, cable, address, emergency stop?"
RIGHT_ANGLES = {90: "a quarter turn", 180: "half a turn", -90: "minus a quarter turn"}


@dataclass(frozen=True)
class CheckConfig:
    """What is tried, and what counts as good.

    Attributes:
      tracker_sees: the ``object``, or the ``tip`` (a tag or rigid body on the tool), which
        is what it takes to compare the frames of tracker and robot.
      side_m: of the jogged square.
      speed_m_s: of the tip.
      wait_s: for the first pose.
      rate_s: how long frames are counted.
      min_tracker_hz: frames per second that a tracker should give.
      max_age_s: of a pose when it arrives.
      max_position_m: error of a position at rest, and of the frames' offset.
      max_scale, max_turn_rad: difference between the frames.
      max_delay_s: from the command to the seen motion.
    """

    tracker_sees: Literal["object", "tip"] = "object"
    side_m: float = 0.03
    speed_m_s: float = 0.03
    wait_s: float = 3.0
    rate_s: float = 2.0
    min_tracker_hz: float = 10.0
    max_age_s: float = 0.2
    max_position_m: float = 5e-3
    max_scale: float = 0.05
    max_turn_rad: float = float(np.deg2rad(3))
    max_delay_s: float = 0.3


@dataclass(frozen=True)
class Item:
    """One line of the checklist.

    Attributes:
      name: what was tried.
      outcome: pass, fail or skip.
      text: what was found.
      advice: what to do; empty if nothing.
      measured: numbers, SI units.
    """

    name: str
    outcome: Outcome
    text: str
    advice: str = ""
    measured: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        line = f"{MARKS[self.outcome]} {self.name}: {self.text}"
        return f"{line}\n     -> {self.advice}" if self.advice else line


@dataclass(frozen=True)
class CheckReport:
    """The checklist of a robot and a tracker."""

    robot: str
    tracker: str
    items: tuple[Item, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed."""
        return all(item.outcome != "fail" for item in self.items)

    def record(self) -> dict:
        """JSON-serialisable; what was not measured is None."""
        record = {"schema": SCHEMA_VERSION, "ok": self.ok, **asdict(self)}
        for item in record["items"]:
            found = item["measured"].items()
            item["measured"] = {name: x if np.isfinite(x) else None for name, x in found}
        return record

    def describe(self) -> str:
        """The checklist for a person."""
        lines = [f"robot {self.robot}, tracker {self.tracker}:"]
        lines += [textwrap.indent(str(item), "  ") for item in self.items]
        return "\n".join([*lines, "ready" if self.ok else "not ready"])


def check(
    robot: Robot,
    tracker: Tracker,
    clock: Clock,
    task: Task,
    config: CheckConfig | None = None,
    tell: Callable[[Item], object] = lambda item: None,
) -> CheckReport:
    """Go through the list; always ends with a stopped and disconnected robot.

    Args:
      robot, tracker: not yet connected.
      clock: the loop's.
      task: workspace and control period.
      config: what counts as good.
      tell: called with every item as soon as it is known.
    """
    return Checklist(robot, tracker, clock, task, config or CheckConfig(), tell).run()


class Checklist:
    """One pass through the list; see ``check``."""

    def __init__(self, robot, tracker, clock, task, config, tell):
        self.robot, self.tracker, self.clock, self.task = robot, tracker, clock, task
        self.config, self._tell = config, tell
        self.items: list[Item] = []
        self.jog = Jog(robot, tracker, clock, task.control_period_s, config.speed_m_s)

    def run(self) -> CheckReport:
        """Every step in turn; when one of the first fails, the rest is skipped."""
        first = (self.connect_robot, self.connect_tracker, self.plausible_tip)
        then = (
            self.plausible_pose, self.robot_rate, self.tracker_rate, self.frames, self.latency,
            self.stopping,
        )  # fmt: skip
        reason = ""
        try:
            for step in (*first, *then):
                name = step.__name__.replace("_", " ")
                item = Item(name, "skip", reason) if reason else self._try(step, name)
                self._add(item)
                if item.outcome == "fail" and (step in first or item.advice == LOOK):
                    reason = f"because of {name!r}"
        finally:
            for end in (self.robot.stop, self.robot.disconnect, self.tracker.disconnect):
                self._end(end)
        return CheckReport(self.robot.name, self.tracker.name, tuple(self.items))

    def _try(self, step: Callable[[str], Item], name: str) -> Item:
        try:
            return step(name)
        except (DeviceError, ImportError) as error:
            return Item(name, "fail", str(error), LOOK)

    def _end(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._add(Item(call.__name__, "fail", str(error), "use the emergency stop"))

    def _add(self, item: Item) -> None:
        self.items.append(item)
        self._tell(item)

    # connection ----------------------------------------------------------------

    def connect_robot(self, name: str) -> Item:
        """The robot connects and says where its tip is."""
        self.robot.connect()
        tip = self.jog.tip()
        if np.all(np.isfinite(tip)):
            return Item(name, "pass", f"tip at ({tip[0]:.3f}, {tip[1]:.3f}) m")
        return Item(name, "fail", f"it says its tip is at {tip.tolist()}", LOOK)

    def connect_tracker(self, name: str) -> Item:
        """The tracker connects and sees something."""
        self.tracker.connect()
        pose = self.jog.wait_for_pose(self.config.wait_s)
        if pose is None:
            advice = "is the object in view, and the name of its tag or rigid body right?"
            return Item(name, "fail", f"no pose in {self.config.wait_s:g} s", advice)
        degrees = np.rad2deg(pose.yaw)
        return Item(name, "pass", f"pose ({pose.x:.3f}, {pose.y:.3f}) m, {degrees:.1f} deg")

    def plausible_tip(self, name: str) -> Item:
        """The tip is in the workspace, with room for the square."""
        tip, layout, room = self.jog.tip(), self.task.layout, self.config.side_m
        if self._inside(tip, room):
            return Item(name, "pass", "in the workspace, with room to move")
        advice = (
            f"bring the tip into {layout.lower} to {layout.upper} m, with {room:g} m of room "
            "towards +x and +y"
        )
        if np.abs(tip).max() > FAR_M:
            advice = "millimetres? the protocol is in metres"
        return Item(name, "fail", f"the tip is at ({tip[0]:.3f}, {tip[1]:.3f})", advice)

    def plausible_pose(self, name: str) -> Item:
        """What the tracker sees lies on the table, and the stamp is on the loop's clock."""
        pose, layout = self.tracker.get_pose(), self.task.layout
        ahead = pose.stamp_s - self.clock.now()
        text = f"seen at ({pose.x:.3f}, {pose.y:.3f}) m"
        advice = ""
        if np.abs(pose[:2]).max() > FAR_M:
            advice = "millimetres? metres are meant"
        elif not self._inside(np.array(pose[:2])):
            text += f", outside {layout.lower} to {layout.upper}"
            advice = "is the tracker calibrated to the robot's base frame?"
        elif ahead > FUTURE_S:
            text += f", {ahead:.2f} s in the future"
            advice = "stamps must be on the loop's clock"
        return Item(name, "fail" if advice else "pass", text, advice)

    def _inside(self, xy: Float[np.ndarray, " 2"], room_m: float = 0.0) -> bool:
        layout = self.task.layout
        return bool(np.all(xy >= layout.lower) and np.all(xy <= np.array(layout.upper) - room_m))

    # rates ---------------------------------------------------------------------

    def robot_rate(self, name: str) -> Item:
        """How long an observation takes."""
        seconds = []
        for _ in range(30):
            begun = time.perf_counter()
            self.robot.get_observation()
            seconds.append(time.perf_counter() - begun)
        median, worst = float(np.median(seconds)), max(seconds)
        allowed = self.task.control_period_s / 4
        measured = {"median_s": median, "max_s": worst}
        text = f"an observation takes {1e3 * median:.2f} ms (at most {1e3 * worst:.2f} ms)"
        if median <= allowed:
            return Item(name, "pass", text, measured=measured)
        advice = f"{1e3 * allowed:.0f} ms are allowed, a quarter of a period; not over Wi-Fi?"
        return Item(name, "fail", text, advice, measured)

    def tracker_rate(self, name: str) -> Item:
        """How often there is a new pose, and how old it is when it comes."""
        track = self.jog.watch(self.config.rate_s)
        stamps, ages = track.pose_stamps, track.pose_ages
        rate = (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 0.0
        age = float(np.median(ages)) if len(ages) else float("inf")
        measured = {"rate_hz": rate, "age_s": age}
        text = f"{rate:.1f} new poses/s" + (
            f", {1e3 * age:.0f} ms old when they come" if np.isfinite(age) else ""
        )
        if rate < self.config.min_tracker_hz:
            return Item(name, "fail", text, f"{self.config.min_tracker_hz:g}/s are wanted: camera "
                        "exposure, resolution, network?", measured)  # fmt: skip
        if age > self.config.max_age_s:
            return Item(name, "fail", text, f"{1e3 * self.config.max_age_s:.0f} ms are allowed: "
                        "buffers between camera and loop?", measured)  # fmt: skip
        return Item(name, "pass", text, measured=measured)

    # frames --------------------------------------------------------------------

    def frames(self, name: str) -> Item:
        """Jog a square; compare where the tip was sent, measured and tracked."""
        sent, measured, tracked = self.jog.square(self.config.side_m)
        miss = float(np.linalg.norm(measured - sent, axis=1).max())
        if miss > self.config.max_position_m:
            return Item(name, "fail", f"the tip stood {1e3 * miss:.1f} mm from where it was sent",
                        "is something in its way? are its units and frame right?",
                        {"miss_m": miss})  # fmt: skip
        if self.config.tracker_sees == "object":
            return Item(name, "skip", f"the robot follows to {1e3 * miss:.1f} mm; the tracker sees "
                        "the object, not the tip", "to compare the frames, fix a tag or rigid body "
                        "to the tool and set tracker_sees to tip", {"miss_m": miss})  # fmt: skip
        return compare_frames(name, measured, tracked, self.config, miss)

    # latency and stop ------------------------------------------------------------

    def latency(self, name: str) -> Item:
        """Move along a line; when is half of the way seen?"""
        track, half_s = self.jog.line(self.config.side_m)
        robot = track.crossing(track.tip_times, track.tips) - half_s
        found = {"robot_s": robot}
        text = f"the robot's tip is seen to move {1e3 * robot:.0f} ms after the command"
        if self.config.tracker_sees == "tip":
            seen = track.crossing(track.pose_times, track.poses) - half_s
            stamp = track.crossing(track.pose_stamps, track.poses) - half_s - robot
            found |= {"tracker_s": seen, "stamp_behind_robot_s": stamp}
            text += (
                f", by the tracker {1e3 * seen:.0f} ms after it; its stamps are "
                f"{1e3 * stamp:+.0f} ms against the robot"
            )
        worst = max(found["robot_s"], found.get("tracker_s", 0.0))
        if not all(map(np.isfinite, found.values())):
            return Item(name, "fail", "no motion was seen", "was the tip free to move?", found)
        if worst > self.config.max_delay_s:
            return Item(name, "fail", text, f"{1e3 * self.config.max_delay_s:.0f} ms are allowed; "
                        "the policy was trained for less", found)  # fmt: skip
        return Item(name, "pass", text, measured=found)

    def stopping(self, name: str) -> Item:
        """Stop in the middle of a motion; the tip must stay, and stay when told to go on."""
        found = self.jog.stop_on_the_way(self.config.side_m)
        (drift, left), (went, asked) = found.drifted, found.obeyed
        measured = {"drift_m": drift, "left_m": left, "went_on_m": went}
        text = (
            f"the tip moved {1e3 * drift:.1f} mm after stop(), with {1e3 * left:.1f} mm to go, "
            f"and {1e3 * went:.1f} mm when it was told to go on"
        )
        if self._stayed(drift, left) and self._stayed(went, asked):
            return Item(name, "pass", text, measured=measured)
        return Item(name, "fail", text, "do not run this robot unattended", measured)

    def _stayed(self, moved_m: float, way_m: float) -> bool:
        """Whether a motion is no part of a way that was to be gone, however short that is."""
        return moved_m <= max(min(self.config.max_position_m, WENT * way_m), NOISE_M)


def compare_frames(
    name: str,
    robot: Float[np.ndarray, "n 2"],
    tracker: Float[np.ndarray, "n 2"],
    config: CheckConfig,
    miss_m: float,
) -> Item:
    """Scale, turn, mirroring and offset between two measurements of the same points."""
    scale, turn, mirrored = fit_similarity(robot, tracker)
    offset = float(np.linalg.norm((tracker - robot).mean(0)))
    measured = {"scale": scale, "turn_rad": turn, "offset_m": offset, "miss_m": miss_m}
    text = f"scale {scale:.3g}, turned {np.rad2deg(turn):.1f} deg, {1e3 * offset:.1f} mm apart"
    advice = ""
    if MILLI[0] < scale < MILLI[1]:
        advice = "the tracker speaks millimetres; metres are meant"
    elif scale < STILL:
        advice = "what the tracker sees does not move with the tip: is its tag on the tool?"
    elif abs(scale - 1) > config.max_scale:
        advice = "a wrong scale: sizes of the tags, calibration of the cameras?"
    elif mirrored:
        advice = "the tracker's frame is mirrored: one axis points the wrong way"
    elif abs(turn) > config.max_turn_rad:
        near = min(RIGHT_ANGLES, key=lambda a: abs(_wrapped(turn - np.deg2rad(a))))
        exact = abs(_wrapped(turn - np.deg2rad(near))) < config.max_turn_rad
        advice = f"turn the tracker's frame by {-np.rad2deg(turn):.1f} deg"
        advice += f": it is off by {RIGHT_ANGLES[near]}" if exact else ""
    elif offset > config.max_position_m:
        shift = (robot - tracker).mean(0)
        advice = f"shift the tracker's frame by ({shift[0]:+.4f}, {shift[1]:+.4f}) m"
    return Item(name, "fail" if advice else "pass", text, advice, measured)


def fit_similarity(
    p: Float[np.ndarray, "n 2"], s: Float[np.ndarray, "n 2"]
) -> tuple[float, float, bool]:
    """Scale, turn (rad) and mirroring that bring p onto s, least squares, as s = a p + b in C."""
    p, s = p - p.mean(0), s - s.mean(0)
    p, s = p[:, 0] + 1j * p[:, 1], s[:, 0] + 1j * s[:, 1]
    straight = np.vdot(p, s) / np.vdot(p, p)
    flipped = np.vdot(p.conj(), s) / np.vdot(p, p)
    best = max(straight, flipped, key=abs)
    return float(abs(best)), float(np.angle(best)), bool(abs(flipped) > abs(straight))


def _wrapped(angle: float) -> float:
    return float(np.angle(np.exp(1j * angle)))
