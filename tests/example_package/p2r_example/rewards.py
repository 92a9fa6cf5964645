"""A reward term: a number per environment from one transition."""

from p2r_jax.types import wrap_angle


def turning(transition):
    """How far the object turned in this step, rad."""
    before, after = transition.before.dynamics.pose, transition.after.dynamics.pose
    return abs(wrap_angle(after.yaw - before.yaw))
