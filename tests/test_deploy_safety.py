"""The safety function: what it lets through, whatever comes in."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from p2r_jax.deploy.polygon import is_convex, nearest_inside, outside_m
from p2r_jax.deploy.safety import AHEAD_S, SafetyConfig, Situation, check, limits_for

NAN, INF = math.nan, math.inf
RECTANGLE = ((0.05, -0.45), (0.55, -0.45), (0.55, 0.45), (0.05, 0.45))
HEXAGON = tuple(
    (0.3 + 0.2 * math.cos(a), 0.25 * math.sin(a)) for a in np.arange(6) * math.pi / 3 + 0.1
)
PERIOD, SCALE = 0.05, 0.03
LIMITS = limits_for(SafetyConfig(), RECTANGLE, PERIOD, SCALE)
FINE = Situation(
    now_s=10.0, pose_stamp_s=9.95, gap_s=PERIOD, held_s=0.0, pose=(0.3, 0.2, 0.1),
    last_pose=(0.3, 0.2, 0.1), ee=(0.3, 0.0), height_m=NAN, last_target=(0.3, 0.0),
    action=(0.5, -0.5),
)  # fmt: skip
ROUNDING = 1e-9

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, 0.05, 0.55, 0.3, 1e-300, 1e308, -1e308]),
)
points = st.tuples(numbers, numbers)
poses = st.tuples(numbers, numbers, numbers)
situations = st.builds(
    Situation, now_s=numbers, pose_stamp_s=numbers, gap_s=numbers, held_s=numbers, pose=poses,
    last_pose=poses, ee=points, height_m=numbers, last_target=points, action=points,
)  # fmt: skip
near = st.floats(-0.2, 0.2)


@st.composite
def plausible(draw):
    """Situations that mostly pass the coarse checks, so that the fine ones are met."""
    x, y = draw(st.floats(0.0, 0.6)), draw(st.floats(-0.5, 0.5))
    ee = (x + 0.3 * draw(near), y + 0.3 * draw(near))
    return FINE._replace(
        ee=ee, last_target=(x, y), action=(draw(numbers), draw(numbers)),
        pose_stamp_s=10.0 - draw(st.floats(-0.1, 0.3)), pose=(0.3, 0.2, draw(st.floats(-7, 7))),
        gap_s=draw(st.floats(0, 0.4)),
    )  # fmt: skip


configs = st.builds(
    SafetyConfig,
    workspace=st.sampled_from([None, HEXAGON]),
    max_step_m=st.one_of(st.none(), st.floats(1e-4, 0.1)),
    max_speed_m_s=st.one_of(st.none(), st.floats(1e-3, 2.0)),
    min_height_m=st.one_of(st.none(), st.floats(-0.1, 0.1)),
    stop_on=st.one_of(st.just(()), st.just(SafetyConfig().stop_on)),
)


def assert_safe(config: SafetyConfig, s: Situation):
    """The promises of the module's docstring, computed in another way."""
    limits = limits_for(config, RECTANGLE, PERIOD, SCALE)
    verdict = check(limits, s)
    if verdict.stop:
        assert verdict.causes
        return
    x, y = verdict.target
    assert math.isfinite(x)
    assert math.isfinite(y)
    corners = np.array(limits.workspace)
    edge = np.roll(corners, -1, 0) - corners
    normal = np.stack([edge[:, 1], -edge[:, 0]], -1) / np.linalg.norm(edge, axis=1)[:, None]
    assert (np.sum(normal * (np.array([x, y]) - corners), -1) <= 2 * ROUNDING).all()
    assert math.dist((x, y), s.last_target) <= limits.max_speed_m_s * PERIOD + ROUNDING
    if verdict.held:
        assert verdict.target == s.last_target
    else:
        assert all(map(math.isfinite, (*s.pose, *s.ee, *s.action)))
        reach = max(limits.max_step_m, limits.max_tracking_m)
        off = max(outside_m(limits.workspace, s.ee), 0.0) * 2  # of a convex corner, at most
        assert math.dist((x, y), s.ee) <= reach + off + ROUNDING
        assert -AHEAD_S <= s.now_s - s.pose_stamp_s <= limits.max_age_s
        if np.isfinite(s.last_pose).all():
            here, there = (np.exp(1j * yaw) for yaw in (s.pose[2], s.last_pose[2]))
            if abs(s.pose[2]) + abs(s.last_pose[2]) < 1e3:  # beyond, the angles are rounding
                assert abs(np.angle(here / there)) <= limits.max_turn_rad + ROUNDING


@settings(max_examples=400, deadline=None)
@given(configs, situations)
@example(SafetyConfig(stop_on=()), FINE._replace(last_target=(1e308, 1e308), ee=(1e308, 1e308)))
@example(SafetyConfig(stop_on=()), FINE._replace(last_target=(NAN, 0.0)))
def test_no_input_gets_an_unsafe_target_through(config, situation):
    assert_safe(config, situation)


@settings(max_examples=600, deadline=None)
@given(configs, plausible())
def test_no_plausible_input_gets_an_unsafe_target_through(config, situation):
    assert_safe(config, situation)


def test_a_fine_step_is_sent_as_it_is():
    verdict = check(LIMITS, FINE)
    assert verdict == (False, False, (0.3 + 0.5 * SCALE, -0.5 * SCALE), ())


@pytest.mark.parametrize(
    ("change", "cause", "stops"),
    [
        ({"pose": (NAN, 0.2, 0.1)}, "not-finite", False),
        ({"action": (NAN, 0.0)}, "not-finite", False),
        ({"ee": (INF, 0.0)}, "not-finite", False),
        ({"ee": (NAN, 0.0), "last_target": (NAN, 0.0)}, "not-finite", True),  # the first step
        ({"pose_stamp_s": 9.5}, "stale", False),
        ({"pose_stamp_s": 11.0}, "clock", False),
        ({"pose_stamp_s": 10.03}, "clock", False),  # less than a period ahead
        ({"pose": (0.45, 0.2, 0.1)}, "jump", False),
        ({"pose": (0.3, 0.2, 1.2)}, "jump", False),
        ({"pose": (0.3, 0.2, 0.1 + math.pi)}, "jump", False),
        ({"gap_s": 0.4}, "gap", True),
        ({"ee": (0.45, 0.0)}, "tracking", True),
        ({"last_target": (0.6, 0.0), "ee": (0.6, 0.0)}, "outside", True),
    ],
)
def test_violations_hold_or_stop(change, cause, stops):
    verdict = check(LIMITS, FINE._replace(**change))
    assert cause in verdict.causes
    assert verdict.held
    assert verdict.stop == stops


@pytest.mark.parametrize(
    ("config", "change", "cause"),
    [
        ({"max_step_m": 0.01}, {}, "step"),
        ({"max_speed_m_s": 0.2}, {}, "speed"),
        ({}, {"ee": (0.549, 0.0), "last_target": (0.549, 0.0)}, "workspace"),
    ],
)
@pytest.mark.parametrize("stops", [False, True])
def test_too_long_actions_are_clipped_or_stop_as_configured(config, change, cause, stops):
    chosen = SafetyConfig(**config, stop_on=(cause,) if stops else ())
    situation = FINE._replace(**change)
    verdict = check(limits_for(chosen, RECTANGLE, PERIOD, SCALE), situation)
    assert verdict.causes == (cause,)
    assert verdict.stop == stops
    wanted = 0.03 * math.hypot(0.5, 0.5)
    assert math.dist(verdict.target, situation.ee) < wanted


def test_a_turn_is_measured_the_short_way_round_and_its_limit_can_be_chosen():
    over = FINE._replace(last_pose=(0.3, 0.2, 3.1), pose=(0.3, 0.2, -3.1))
    assert check(LIMITS, over).causes == ()
    strict = limits_for(SafetyConfig(max_turn_rad=0.05), RECTANGLE, PERIOD, SCALE)
    assert check(strict, over).causes == ("jump",)


def test_a_stamp_a_little_ahead_is_two_clocks_at_any_control_period():
    for period_s in (PERIOD, 1.0):
        limits = limits_for(SafetyConfig(), RECTANGLE, period_s, SCALE)
        assert check(limits, FINE._replace(pose_stamp_s=10.015)).causes == ()
        assert check(limits, FINE._replace(pose_stamp_s=10.3)).causes == ("clock",)


def test_height_is_watched_only_where_asked_and_a_silent_robot_does_not_pass():
    low = limits_for(SafetyConfig(min_height_m=0.02), RECTANGLE, PERIOD, SCALE)
    assert check(LIMITS, FINE._replace(height_m=-1.0)).causes == ()
    assert check(low, FINE._replace(height_m=0.03)).causes == ()
    for height_m in (0.01, NAN):
        verdict = check(low, FINE._replace(height_m=height_m))
        assert verdict.stop
        assert "height" in verdict.causes


def test_holding_for_too_long_stops():
    stale = FINE._replace(pose_stamp_s=9.0)
    assert not check(LIMITS, stale._replace(held_s=1.9)).stop
    verdict = check(LIMITS, stale._replace(held_s=2.1))
    assert verdict.stop
    assert verdict.causes == ("stale", "held-too-long")
    assert not check(LIMITS, FINE._replace(held_s=2.1)).stop  # it sees again: no reason


def test_limits_refuse_a_workspace_that_is_not_convex_and_numbers_that_are_not_positive():
    dented = ((0, 0), (1, 0), (0.5, 0.2), (1, 1), (0, 1))
    for corners in (dented, RECTANGLE[::-1], RECTANGLE[:2], (*RECTANGLE, RECTANGLE[0])):
        with pytest.raises(ValueError, match="not a strictly convex polygon"):
            limits_for(SafetyConfig(workspace=corners), RECTANGLE, PERIOD, SCALE)
    with pytest.raises(ValueError, match="max_step_m is 0"):
        limits_for(SafetyConfig(max_step_m=0.0), RECTANGLE, PERIOD, SCALE)
    with pytest.raises(ValueError, match="max_age_s is -1"):
        limits_for(SafetyConfig(max_age_s=-1.0), RECTANGLE, PERIOD, SCALE)
    with pytest.raises(ValueError, match="max_step_m is nan"):
        replace(LIMITS, max_step_m=NAN)


@given(st.sampled_from([RECTANGLE, HEXAGON]), st.floats(-2, 2), st.floats(-2, 2))
def test_the_nearest_point_inside_is_inside_and_none_is_nearer(polygon, x, y):
    assert is_convex(polygon)
    found = nearest_inside(polygon, (x, y))
    assert outside_m(polygon, found) <= ROUNDING
    assume(found != (x, y))
    corners = np.array(polygon)
    share = np.linspace(0, 1, 200)[:, None, None]
    outline = (corners + share * (np.roll(corners, -1, 0) - corners)).reshape(-1, 2)
    nearest = np.linalg.norm(outline - [x, y], axis=1).min()
    assert math.dist(found, (x, y)) <= nearest + 1e-9


def test_clipping_to_a_rectangle_is_clipping_each_axis():
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-1, 1, (200, 2)):
        clipped = np.clip((x, y), RECTANGLE[0], RECTANGLE[2])
        assert nearest_inside(RECTANGLE, (x, y)) == pytest.approx(tuple(clipped), abs=1e-15)
