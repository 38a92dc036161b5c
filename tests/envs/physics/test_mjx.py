"""The small things, on a pendulum; the biped is in test_parity.py."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs.physics import PhysicsState
from envs.physics.mjx import MjxEngine
from envs.physics.native import NativeEngine
from tests.envs.physics.feature_models import FLOOR, arm

# The joint has a limit because MJX 3.17 forgets force sensors in models without any constraint.
PENDULUM = """<mujoco><worldbody><body>
<joint name="hinge" type="hinge" axis="0 1 0" damping="0.1" limited="true" range="-900 900"/>
<geom type="capsule" size=".02" fromto="0 0 0 0 0 -.5"/></body></worldbody>{more}</mujoco>"""
ACTIVATED = """<actuator><general name="motor" joint="hinge" dyntype="integrator" gainprm="2"/></actuator>
<sensor><jointvel joint="hinge"/><actuatorfrc actuator="motor"/></sensor>"""

TOUCH = '<touch site="hand"/>'


def model(more=""):
    return mujoco.MjModel.from_xml_string(PENDULUM.format(more=more))


@pytest.fixture(scope="module")
def engines():
    return MjxEngine(model(ACTIVATED), 3), NativeEngine(model(ACTIVATED), 3)


def assert_close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.slow
def test_activations_and_sensors_as_native(engines):
    rng = np.random.default_rng(0)
    qpos, qvel, ctrl = jnp.asarray(rng.normal(size=(3, 5, 1)), jnp.float32)
    states = [jax.jit(jax.vmap(engine.forward))(qpos, qvel) for engine in engines]
    assert_close(*states)
    assert (states[0].act == 0).all()
    state = states[1].replace(act=ctrl / 2)
    steps = [jax.jit(jax.vmap(engine.step)) for engine in engines]
    ours, theirs = (step(state, ctrl) for step in steps)
    assert_close(ours, theirs)
    np.testing.assert_allclose(ours.act, ctrl / 2 + 3 * 0.002 * ctrl, rtol=1e-5)


@pytest.mark.slow
def test_overrides_as_native(engines):
    state = engines[1].forward(jnp.array([0.5]), jnp.array([1.0]))
    damping = jnp.array([[0.1], [0.5], [2.0]])
    after = [
        jax.jit(jax.vmap(engine.step, (None, None, 0)))(
            state, jnp.zeros(1), {"dof_damping": damping}
        )
        for engine in engines
    ]
    assert_close(*after)
    assert (np.diff(after[0].qvel[:, 0]) < 0).all()
    plain = jax.jit(engines[0].step)(state, jnp.zeros(1))
    np.testing.assert_allclose(plain.qvel, after[0].qvel[0])


def test_without_actuators_and_sensors():
    engine = MjxEngine(model(), 2)
    state = jax.jit(engine.forward)(jnp.array([0.5]), jnp.array([1.0]))
    assert state.act is state.sensordata is state.extras is None
    after = jax.jit(engine.step)(state, jnp.zeros(0))
    assert_close(after, NativeEngine(model(), 2).step(state, jnp.zeros(0)))


def test_the_solver_starts_cold_and_the_callers_model_is_left_alone():
    mine = model()
    engine = MjxEngine(mine, 1)
    cold = mujoco.mjtDisableBit.mjDSBL_WARMSTART
    assert engine.model.opt.disableflags & cold
    assert engine._model.opt.disableflags & cold
    assert not mine.opt.disableflags & cold


FALLING = """<mujoco><option integrator="RK4"/><worldbody><geom type="plane" size="1 1 1"/>
<body pos="0 0 .11"><freejoint/><geom size=".1"/></body></worldbody></mujoco>"""


@pytest.mark.slow
def test_extras_as_native():
    """RK4, whose last stage they are from; two balls, one in the floor and one above it."""
    ball = mujoco.MjModel.from_xml_string(FALLING)
    extras = ("xpos", "cfrc_ext", "qfrc_constraint")
    qpos = jnp.tile(jnp.asarray(ball.qpos0, jnp.float32), (2, 1)).at[0, 2].set(0.099)
    qvel = jnp.zeros((2, 6)).at[:, 0].set(1.0)
    engines = [MjxEngine(ball, 2, extras), NativeEngine(ball, 2, extras=extras)]
    states = [jax.jit(jax.vmap(engine.forward))(qpos, qvel) for engine in engines]
    after = [
        jax.jit(jax.vmap(e.step))(s, jnp.zeros((2, 0)))
        for e, s in zip(engines, states, strict=True)
    ]
    for ours, theirs in (states, after):
        assert set(ours.extras) == set(extras)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), ours, theirs
        )
    assert np.abs(after[1].extras["cfrc_ext"][0]).max() > 1


@pytest.mark.parametrize(
    "integrator",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("Euler", "RK4")), "implicitfast"],
)
@pytest.mark.slow
def test_every_product_of_matrices_is_computed_in_full(integrator):
    """A GPU's TF32 has ten bits of a factor's fraction: coordinates would be off by 6e-3 after a control step."""
    xml = arm(world=FLOOR.format(""), option=f'integrator="{integrator}"', sensor=TOUCH)
    engine = MjxEngine(mujoco.MjModel.from_xml_string(xml), 2, ("cfrc_ext",))
    qpos = qvel = jnp.zeros((3, 2))
    state = jax.eval_shape(jax.vmap(engine.forward), qpos, qvel)
    programs = [
        jax.jit(jax.vmap(engine.forward)).lower(qpos, qvel),
        jax.jit(jax.vmap(engine.step)).lower(state, jnp.zeros((3, 1))),
    ]
    for program in programs:
        products = [
            line
            for line in program.as_text().splitlines()
            if "stablehlo.dot" in line or "stablehlo.convolution" in line
        ]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_overrides_that_mjx_would_not_notice_are_refused():
    engine = MjxEngine(model(ACTIVATED), 1)
    state = PhysicsState(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1))
    for name in ("dof_frictionloss", "eq_active0", "actuator_delay"):
        with pytest.raises(ValueError, match=f"takes no notice of another {name}"):
            engine.step(state, jnp.zeros(1), {name: jnp.ones(1)})
