import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import envs
from envs.biped.body import XML
from envs.gymnasium_mujoco.base import ASSETS
from envs.mujoco_env import load_file
from envs.physics import optimised
from envs.physics.contact_pairs import list_contact_pairs
from envs.physics.engine import EXTRAS
from envs.physics.native import NativeEngine

pytestmark = pytest.mark.filterwarnings("ignore:compiler attribute")

TASKS = {  # pairs of geoms that may touch; the humanoid's 126 are too many to list
    "walker": 8,
    "hopper.xml": 7,
    "half_cheetah.xml": 8,
    "walker2d_v5.xml": 7,
    "ant.xml": 13,
    "swimmer.xml": 0,
    "reacher.xml": 0,
    "pusher_v5.xml": 7,
    "humanoid.xml": 0,
    "rich": 15,
}

# Bodies of several geoms, a fixed one with a plane of its own, kinds that touch one another or not, every parameter
# that is mixed, an excluded pair, a free body beside the chain, a camera, springs and dry friction.
RICH = """<mujoco><default><geom condim="3"/></default><worldbody>
<geom type="plane" size="5 5 .1" friction="1.2 .01 .001" solref=".03 .9"/>
<body name="ramp" pos="1 0 0"><geom type="plane" size="1 1 .1" euler="0 -30 0" margin=".01"/></body>
<body name="chain" pos="0 0 .35"><freejoint/><camera/>
  <geom type="box" size=".1 .1 .1" condim="4" priority="1" friction=".3"/>
  <geom type="sphere" size=".08" pos="0 .15 0" solmix="3" solimp=".7 .9 .01" gap=".002" margin=".004"/>
  <body name="arm" pos=".15 0 0"><joint axis="0 1 0" stiffness="3" frictionloss=".01"/>
    <geom type="capsule" size=".04" fromto="0 0 0 .2 0 0" solref="-500 -20" solmix="0"/>
    <body name="hand" pos=".22 0 0"><joint axis="0 1 0"/>
      <geom type="sphere" size=".06" contype="2" conaffinity="3"/>
      <geom type="box" size=".03 .03 .03" pos=".07 0 0" contype="0" conaffinity="0"/></body></body></body>
<body name="ball" pos=".1 0 .7"><freejoint/><geom type="sphere" size=".07" solmix="0" condim="6"/></body>
</worldbody><contact><exclude body1="ball" body2="hand"/></contact></mujoco>"""


def load(name, tmp_path):
    if name == "walker":
        return load_file(XML)
    if name != "rich":
        return load_file(ASSETS / name)
    (tmp_path / "rich.xml").write_text(RICH)
    return load_file(tmp_path / "rich.xml")


@pytest.mark.parametrize("name", TASKS)
def test_it_steps_to_the_same_states_through_the_same_contacts(name, tmp_path):
    model = load(name, tmp_path)
    equal = optimised.optimised_copy(model)
    assert equal is not model
    assert equal.npair == TASKS[name]
    assert equal.ncam == equal.nlight == 0
    for m in (model, equal):
        m.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
    rng = np.random.default_rng(0)
    data, other = mujoco.MjData(model), mujoco.MjData(equal)
    contacts = 0
    for t in range(600):
        if t % 20 == 0:
            mujoco.mj_resetData(model, data)
            mujoco.mj_integratePos(model, data.qpos, rng.normal(0, 0.3, model.nv), 1.0)
            data.qvel = rng.normal(0, 1, model.nv)
        data.ctrl = rng.uniform(-1, 1, model.nu)
        mujoco.mj_resetData(equal, other)
        other.qpos, other.qvel, other.ctrl = data.qpos, data.qvel, data.ctrl
        mujoco.mj_step(model, data, 3)
        mujoco.mj_step(equal, other, 3)
        for field in ("qpos", "qvel", "sensordata", *EXTRAS):
            np.testing.assert_array_equal(getattr(data, field), getattr(other, field))
        assert data.ncon == other.ncon
        contacts += data.ncon
        for field in ("dist", "pos", "frame", "friction", "solref", "solimp", "dim"):
            np.testing.assert_array_equal(
                getattr(data.contact, field), getattr(other.contact, field)
            )
        np.testing.assert_array_equal(
            model.geom_bodyid[data.contact.geom], equal.geom_bodyid[other.contact.geom]
        )
    assert contacts > 100 or not list_contact_pairs(model)


def test_a_model_that_was_changed_keeps_its_own_contacts(tmp_path):
    model = load_file(ASSETS / "hopper.xml")
    assert optimised.optimised_copy(model).npair
    softer = copy.copy(model)
    softer.geom_friction[:] = 0.1
    same = optimised.optimised_copy(softer)
    assert not same.npair
    np.testing.assert_array_equal(same.geom_friction, softer.geom_friction)

    path = tmp_path / "robot.xml"
    path.write_text((ASSETS / "hopper.xml").read_text())
    first = load_file(path)
    path.write_text(path.read_text().replace('timestep="0.002"', 'timestep="0.004"'))
    assert optimised.digest(load_file(path)) != optimised.digest(first)
    optimised.remember_file(first, path)  # as if the file had changed between the two
    assert not optimised.optimised_copy(first).npair


def test_springs_and_dry_friction_are_passed_over_only_where_there_are_none(tmp_path):
    spring = int(mujoco.mjtDisableBit.mjDSBL_SPRING)
    friction = int(mujoco.mjtDisableBit.mjDSBL_FRICTIONLOSS)

    def switched_off(name):
        return optimised.optimised_copy(load(name, tmp_path)).opt.disableflags & (spring | friction)

    assert switched_off("hopper.xml") == spring | friction
    assert switched_off("half_cheetah.xml") == friction
    assert switched_off("rich") == 0


def test_overridden_friction_counts():
    engine = NativeEngine(load_file(ASSETS / "hopper.xml"), 4)
    assert engine.stepped.npair
    assert not engine.model.npair
    state = engine.forward(jnp.asarray(engine.model.qpos0), jnp.ones(6))
    state = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    usual = jnp.asarray(engine.model.geom_friction)
    friction = jnp.stack([usual, usual * 0.01])
    step = jax.jit(jax.vmap(engine.step))

    def slide(overrides):
        s = state
        for _ in range(30):
            s = step(s, jnp.zeros((2, 3)), overrides)
        return s.qpos[:, 0]

    without = slide(None)
    overridden = slide({"geom_friction": friction})
    assert overridden[0] == without[0] == without[1]
    assert abs(overridden[1] - overridden[0]) > 1e-3
    np.testing.assert_array_equal(slide(None), without)
    assert envs.make("Hopper-v5").engine.stepped.npair  # another engine than this one
