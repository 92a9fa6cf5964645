"""Overflow of MuJoCo Warp: read, named, warned of. No GPU: the data is a stand-in."""

import ast
import importlib.util
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import pytest
from mujoco import mjx
from mujoco.mjx.warp.types import DataWarp

from p2r_jax.policy import ppo
from p2r_jax.sim import push
from p2r_jax.sim.warp_overflow import LOST, overflow_bits, overflow_names, warn_of_overflow

STOPPED_EARLY = {"ITERATIONS", "LS_ITERATIONS"}


def stand_in(flags: int) -> SimpleNamespace:
    return SimpleNamespace(_impl=SimpleNamespace(overflow=jnp.array([flags])))


def waited(look, bits):
    """The result, once the callbacks have run."""
    kept = look(bits)
    jax.effects_barrier()
    return kept


def test_installed_warp_data_still_has_the_field():
    assert "overflow" in DataWarp.__annotations__


def test_our_bits_are_those_of_the_installed_warp():
    """Read from its source, since importing it needs the warp package."""
    folder = Path(importlib.util.find_spec("mujoco.mjx").submodule_search_locations[0])
    source = folder / "third_party" / "mujoco_warp" / "_src" / "types.py"
    body = next(
        node.body
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "OverflowType"
    )
    bits = {
        node.targets[0].id: 1 << node.value.right.value
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("1 <<")
    }
    assert {k: v for k, v in bits.items() if k not in STOPPED_EARLY} == LOST
    assert set(bits) >= STOPPED_EARLY


def test_lost_contacts_are_read_and_iteration_limits_are_not():
    assert int(overflow_bits(stand_in((1 << 9) | (1 << 10)))) == 0
    bits = overflow_bits(stand_in((1 << 9) | LOST["NEFC"] | LOST["NARROWPHASE"]))
    assert overflow_names(bits) == ("NEFC", "NARROWPHASE")


def test_the_jax_backend_has_nothing_to_overflow():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>")
    assert int(overflow_bits(mjx.make_data(model))) == 0


def test_a_batch_warns_once_and_keeps_its_bits():
    batch = jnp.array([0, LOST["NEFC"], LOST["NEFC"], 0])
    look = jax.jit(jax.vmap(warn_of_overflow))
    with pytest.warns(RuntimeWarning, match=r"ran out of room \(NEFC\)") as seen:
        kept = waited(look, batch)
    assert kept.tolist() == batch.tolist()
    assert len([w for w in seen if "room" in str(w.message)]) == 1


def test_nothing_is_said_when_nothing_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not waited(jax.vmap(warn_of_overflow), jnp.zeros(3, jnp.int32)).any()


def test_environments_count_what_was_lost_and_only_where_it_can_be():
    lost = SimpleNamespace(overflow=jnp.array([0, LOST["NEFC"]]))
    assert push._overflow(lost)["overflow_envs"].tolist() == [0.0, 1.0]
    assert push._overflow(SimpleNamespace()) == {}
    assert "overflow_envs" in ppo._COUNTED
