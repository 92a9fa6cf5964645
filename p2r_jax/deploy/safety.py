"""What may be sent to a robot: one pure function between the policy and the arm.

``check`` looks at one step and answers with a target that is safe to send, or with a
stop. Whatever the inputs, a target that it lets through

- is finite and inside the workspace, a convex polygon,
- lies within ``max_speed_m_s`` times the period of the target before it, and
- within the step limit or the tracking limit, whichever is longer, of the measured tip.

A violation ``clips`` (the target is shortened), ``holds`` (the last target again: the arm
finishes what it does and rests there) or ``stops``; which one is a matter of configuration.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from p2r_jax.deploy.polygon import Point, is_convex, nearest_inside, outside_m

Cause = Literal[
    "not-finite", "stale", "clock", "jump", "gap", "height", "tracking", "outside",
    "held-too-long", "step", "speed", "workspace",
]  # fmt: skip
MEANING: dict[str, str] = {  # for whoever stands beside the robot
    "not-finite": "there was no pose yet, or a measurement or the action was no number",
    "stale": "the tracker's newest pose is older than --safety.max-age-s",
    "clock": "a pose is stamped in the future: tracker and loop disagree about the time",
    "jump": "the object moved or turned further between two steps than --safety.max-jump-m "
    "or --safety.max-turn-rad",
    "gap": "the loop was held up for longer than --safety.max-gap-s",
    "height": "the tip is below --safety.min-height-m, or the robot reports no ee.z",
    "tracking": "the tip is further from its last target than --safety.max-tracking-m",
    "outside": "the last target (at first: the tip) is outside the workspace: jog it back, or "
    "give --safety.workspace",
    "held-too-long": "what made it hold went on for longer than --safety.max-hold-s",
    "step": "an action was longer than --safety.max-step-m",
    "speed": "an action was faster than --safety.max-speed-m-s",
    "workspace": "an action led out of the workspace",
}
CLIPS = ("step", "speed", "workspace")  # the other causes hold
INSIDE_M = 1e-9  # what counts as inside: rounding of the projection
AHEAD_S = 0.02  # how far ahead of the clock a stamp may be: what two clocks disagree by


@dataclass(frozen=True)
class SafetyConfig:
    """What is allowed; None derives a limit from the bundle (see ``limits_for``).

    Attributes:
      workspace: corners of a convex polygon that targets stay in, counter-clockwise, m;
        None: the task's rectangle.
      max_step_m: distance of a target from the measured tip; None: the longest action.
      max_speed_m_s: distance between successive targets per period; None: 2.5 times the
        longest action per period (a target starts from the measured tip, which lags).
      max_tracking_m: distance of the measured tip from the last target; None: 1.5 times
        the longest action, plus 1 cm.
      max_jump_m: distance of the object's pose from the one seen before; None: as
        ``max_tracking_m``.
      max_turn_rad: change of the object's yaw from the one seen before.
      min_height_m: of the tip (``ee.z``); None: not watched.
      max_age_s: of a pose.
      max_gap_s: since the step before began, beyond the control period.
      max_hold_s: how long holding may go on.
      stop_on: causes that stop the robot; the others clip or hold.
    """

    workspace: tuple[Point, ...] | None = None
    max_step_m: float | None = None
    max_speed_m_s: float | None = None
    max_tracking_m: float | None = None
    max_jump_m: float | None = None
    max_turn_rad: float = 1.0
    min_height_m: float | None = None
    max_age_s: float = 0.25
    max_gap_s: float = 0.25
    max_hold_s: float = 2.0
    stop_on: tuple[Cause, ...] = ("height", "tracking", "gap", "outside", "held-too-long")


@dataclass(frozen=True)
class Limits:
    """``SafetyConfig`` with every number filled in; SI units.

    Raises:
      ValueError: for a workspace that is not convex and counter-clockwise, or a limit
        that is not positive.
    """

    workspace: tuple[Point, ...]
    period_s: float
    action_scale_m: float
    max_step_m: float
    max_speed_m_s: float
    max_tracking_m: float
    max_jump_m: float
    max_turn_rad: float
    min_height_m: float | None
    max_age_s: float
    max_gap_s: float
    max_hold_s: float
    stop_on: frozenset[str]

    def __post_init__(self):
        if not is_convex(self.workspace):
            raise ValueError(
                f"workspace {self.workspace} is not a strictly convex polygon, counter-clockwise"
            )
        for name, value in vars(self).items():
            if isinstance(value, float) and name != "min_height_m" and not value > 0:
                raise ValueError(f"safety: {name} is {value}; it must be positive")


class Situation(NamedTuple):
    """One step as the loop sees it; any number may be NaN or absurd.

    Attributes:
      now_s, pose_stamp_s: when the action would be sent, when the pose was seen.
      gap_s: from the begin of the step before (at the first: of this one) to now.
      held_s: how long the loop has been holding.
      pose, last_pose: x, y, yaw given to the policy now and at the step before.
      ee: measured tip, m.
      height_m: measured ``ee.z``; NaN if the robot reports none.
      last_target: where the tip was sent last (at the first step: where it is), m.
      action: what the policy wants, in [-1, 1]^2.
    """

    now_s: float
    pose_stamp_s: float
    gap_s: float
    held_s: float
    pose: tuple[float, float, float]
    last_pose: tuple[float, float, float]
    ee: Point
    height_m: float
    last_target: Point
    action: Point


class Verdict(NamedTuple):
    """What to do: stop; or send ``target``, which is the last one again if ``held``.

    Attributes:
      stop: stop the robot and end; ``target`` is then not to be sent.
      held: the policy's action was put aside altogether.
      target: m, world frame.
      causes: every violation of this step; empty if there was none.
    """

    stop: bool
    held: bool
    target: Point
    causes: tuple[str, ...]


def check(limits: Limits, s: Situation) -> Verdict:
    """The verdict on one step; pure, total: any input gives one."""
    holds = _hold_causes(limits, s)
    target, clips = (s.last_target, ()) if holds else _clipped(limits, s)
    causes = (*holds, *clips)
    safe = _finite(target) and outside_m(limits.workspace, target) <= INSIDE_M
    if not safe:  # nothing to hold at: the last target itself is no place to be
        causes = (*causes, "outside") if "outside" not in causes else causes
    stop = not safe or any(cause in limits.stop_on for cause in causes)
    return Verdict(stop, bool(holds), target, causes)


def _hold_causes(limits: Limits, s: Situation) -> tuple[str, ...]:
    """Violations that no shortening of the action mends."""
    age = s.now_s - s.pose_stamp_s
    known = (*s.pose, *s.ee, *s.last_target, *s.action, age, s.gap_s, s.held_s)
    seen, felt = _finite((*s.pose, age)), _finite(s.ee)
    again = seen and _finite(s.last_pose)
    low = limits.min_height_m
    kept = {  # written so that NaN keeps nothing, or is named by "not-finite" alone
        "not-finite": _finite(known),
        "stale": not seen or age <= limits.max_age_s,
        "clock": not seen or age >= -AHEAD_S,
        "jump": not again or _is_near(limits, s.pose, s.last_pose),
        "gap": 0 <= s.gap_s <= limits.period_s + limits.max_gap_s,
        "height": low is None or s.height_m >= low,
        "tracking": not felt or math.dist(s.ee, s.last_target) <= limits.max_tracking_m,
        "outside": outside_m(limits.workspace, s.last_target) <= INSIDE_M,
    }
    causes = tuple(cause for cause, is_kept in kept.items() if not is_kept)
    too_long = bool(causes) and not s.held_s <= limits.max_hold_s
    return (*causes, "held-too-long") if too_long else causes


def _is_near(limits: Limits, pose: tuple[float, ...], last: tuple[float, ...]) -> bool:
    """Whether an object can have gone from one pose to the other within a step."""
    turned = (pose[2] - last[2] + math.pi) % (2 * math.pi) - math.pi
    return math.dist(pose[:2], last[:2]) <= limits.max_jump_m and abs(turned) <= limits.max_turn_rad


def _clipped(limits: Limits, s: Situation) -> tuple[Point, tuple[str, ...]]:
    """The action's target, shortened until it keeps every limit, and what was violated."""
    reach = [limits.action_scale_m * min(max(a, -1.0), 1.0) for a in s.action]
    wanted = (s.ee[0] + reach[0], s.ee[1] + reach[1])
    stepped = _within(s.ee, wanted, limits.max_step_m)
    slowed = _within(s.last_target, stepped, limits.max_speed_m_s * limits.period_s)
    inside = nearest_inside(limits.workspace, slowed)
    stages = zip(CLIPS, (wanted, stepped, slowed), (stepped, slowed, inside), strict=True)
    return inside, tuple(cause for cause, before, after in stages if before != after)


def _within(center: Point, point: Point, radius: float) -> Point:
    """``point``, pulled towards ``center`` until it is no further than ``radius``."""
    distance = math.dist(center, point)
    if distance <= radius:
        return point
    share = radius / distance
    return tuple(c + share * (p - c) for c, p in zip(center, point, strict=True))


def limits_for(
    config: SafetyConfig, workspace: tuple[Point, ...], period_s: float, action_scale_m: float
) -> Limits:
    """Fill in what a configuration leaves to the bundle."""
    longest = math.sqrt(2) * action_scale_m
    lag = 1.5 * longest + 0.01
    return Limits(
        workspace=config.workspace or workspace,
        period_s=period_s,
        action_scale_m=action_scale_m,
        max_step_m=_chosen(config.max_step_m, longest * (1 + 1e-6)),
        max_speed_m_s=_chosen(config.max_speed_m_s, 2.5 * longest / period_s),
        max_tracking_m=_chosen(config.max_tracking_m, lag),
        max_jump_m=_chosen(config.max_jump_m, lag),
        max_turn_rad=config.max_turn_rad,
        min_height_m=config.min_height_m,
        max_age_s=config.max_age_s,
        max_gap_s=config.max_gap_s,
        max_hold_s=config.max_hold_s,
        stop_on=frozenset(config.stop_on),
    )


def _chosen(value: float | None, default: float) -> float:
    return default if value is None else value


def _finite(numbers: tuple[float, ...]) -> bool:
    return all(math.isfinite(x) for x in numbers)
