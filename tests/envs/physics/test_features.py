"""Every feature of MuJoCo's is stepped as MuJoCo steps it, or refused in one line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs.mujoco_env import load_file
from envs.physics import features, make_engine
from envs.physics.engine import PhysicsState
from envs.physics.features import REFUSED
from envs.physics.native import NativeEngine
from tests.envs.physics import feature_models
from tests.envs.physics.feature_models import MODELS, arm

SUBSTEPS, STEPS = 4, 12
COLD = int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)  # the contract's: the solver starts cold
FIELDS = ("qpos", "qvel", "act", "sensordata")
EXTRAS = ("xpos", "qfrc_actuator", "qacc")


def as_float32(data):
    """States cross between control steps as float32."""
    for name in ("qpos", "qvel", "act"):
        getattr(data, name)[:] = np.float32(getattr(data, name))


def held(tmp_path, xml):
    path = tmp_path / "model.xml"
    path.write_text(xml)
    plain = mujoco.MjModel.from_xml_path(str(path))
    plain.opt.disableflags |= COLD
    return load_file(path), plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("extras", [(), EXTRAS], ids=["rollout", "threads"])
@pytest.mark.parametrize("name", MODELS)
def test_it_moves_as_in_plain_mujoco(name, extras, tmp_path):
    """Bit for bit, next to two others on one thread; MuJoCo's own record lives on from step to step, ours does not."""
    model, plain = held(tmp_path, MODELS[name])
    engine = NativeEngine(model, SUBSTEPS, threads=1, extras=extras)
    data = mujoco.MjData(plain)
    speeds = np.float32(np.random.default_rng(0).normal(0, 1, (3, plain.nv)) * [[1], [0.5], [0.1]])
    data.qpos[:], data.qvel[:] = np.float32(plain.qpos0), speeds[1]
    mujoco.mj_forward(plain, data)
    state = jax.vmap(engine.forward, (None, 0))(jnp.asarray(plain.qpos0), jnp.asarray(speeds))
    if plain.nsensordata:
        np.testing.assert_array_equal(state.sensordata[1], np.float32(data.sensordata))
    for t in range(STEPS):
        ctrl = np.float32(1.5 * np.sin(t / 3 + np.arange(plain.nu)))
        state = jax.vmap(engine.step)(state, jnp.stack([-ctrl, ctrl, 2 * ctrl]))
        data.ctrl[:] = ctrl
        mujoco.mj_step(plain, data, SUBSTEPS)
        ours = {field: getattr(state, field) for field in FIELDS} | (state.extras or {})
        for field, value in ours.items():
            if value is not None:
                expected = np.float32(getattr(data, field))
                np.testing.assert_array_equal(value[1], expected, err_msg=f"{field}, step {t}")
        as_float32(data)
    assert np.isfinite(data.qpos).all()


def members(enum, prefix):
    return {int(getattr(enum, name)): name for name in dir(enum) if name.startswith(f"mj{prefix}_")}


def test_the_models_go_over_mujocos_own_lists(tmp_path):
    refused = [xml for xml, _ in feature_models.REFUSED.values()]
    models = [held(tmp_path, xml)[1] for xml in [*MODELS.values(), *refused]]

    def used(*fields):
        return {int(x) for model in models for field in fields for x in getattr(model, field)}

    def options(name):
        return {int(getattr(model.opt, name)) for model in models}

    def bits(name):
        return {1 << k for k in range(32) if any(x >> k & 1 for x in options(name))}

    unused = {
        "mjEQ_DISTANCE",  # which MuJoCo's compiler no longer knows
        "mjWRAP_NONE",
        "mjTRN_UNDEFINED",
        "mjGEOM_SDF",  # of plugins
    }
    lists = [
        (mujoco.mjtDisableBit, "DSBL", bits("disableflags")),
        (mujoco.mjtEnableBit, "ENBL", bits("enableflags")),
        (mujoco.mjtIntegrator, "INT", options("integrator")),
        (mujoco.mjtSolver, "SOL", options("solver")),
        (mujoco.mjtCone, "CONE", options("cone")),
        (mujoco.mjtJacobian, "JAC", options("jacobian")),
        (mujoco.mjtDyn, "DYN", used("actuator_dyntype")),
        (mujoco.mjtGain, "GAIN", used("actuator_gaintype")),
        (mujoco.mjtBias, "BIAS", used("actuator_biastype")),
        (mujoco.mjtTrn, "TRN", used("actuator_trntype")),
        (mujoco.mjtSensor, "SENS", used("sensor_type")),
        (mujoco.mjtJoint, "JNT", used("jnt_type")),
        (mujoco.mjtEq, "EQ", used("eq_type")),
        (mujoco.mjtWrap, "WRAP", used("wrap_type")),
    ]
    missing = {
        name
        for enum, prefix, seen in lists
        for value, name in members(enum, prefix).items()
        if value not in seen
    }
    assert missing <= unused, missing - unused
    shapes = {v: n for v, n in members(mujoco.mjtGeom, "GEOM").items() if v < 9}
    assert {n for v, n in shapes.items() if v not in used("geom_type")} <= unused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["native", "mjx"])
@pytest.mark.parametrize("name", feature_models.REFUSED)
def test_what_a_state_does_not_carry_is_refused(name, backend, tmp_path):
    xml, word = feature_models.REFUSED[name]
    with pytest.raises(ValueError, match=f"the {backend} backend does not step .*{word}") as error:
        make_engine(held(tmp_path, xml)[0], 1, backend)
    assert "\n" not in str(error.value)


MJX_REFUSES = {
    "a flag that disables springs or dampers": arm(flag='damper="disable"'),
    "polynomial stiffness or damping": arm(joint='stiffness="0 1 2"'),
    "damping or armature of an actuator": arm(actuator='<motor joint="elbow" damping=".1"/>'),
    "actuators with actearly": arm(
        actuator='<general joint="elbow" dyntype="filter" dynprm=".1" actearly="true"/>'
    ),
    "disabled groups of actuators": arm(option='actuatorgroupdisable="2"'),
    "noslip iterations": arm(option='noslip_iterations="2"'),
    "fluid forces on ellipsoids (fluidshape)": arm(geom='fluidshape="ellipsoid"'),
    "adhesion of geoms": arm(geom='adhesion="1"'),
    "surface velocity of geoms": arm(world=feature_models.FLOOR.format('surfacevel="1 0 0"')),
    "the discrete integrator": arm(option='integrator="discrete"'),
    "sensors of forces or accelerations where nothing can constrain the motion": arm(
        sensor='<accelerometer site="hand"/>'
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("feature", [r.feature for r in REFUSED if r.backends == ("mjx",)])
def test_what_mjx_passes_over_is_refused_there(feature):
    model = mujoco.MjModel.from_xml_string(MJX_REFUSES[feature])
    with pytest.raises(ValueError, match="the native backend computes it") as error:
        make_engine(model, 1, "mjx")
    assert feature in str(error.value)
    make_engine(model, 1, "native")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "xml",
    [
        arm(actuator='<pid joint="elbow" kp="1" ki="1"/>'),
        arm(option='solver="PGS"'),
        arm(sensor="<e_potential/>"),
        arm(flag='override="enable"'),
        feature_models.BODIES["cloth"],
    ],
)
def test_what_mjx_does_not_have_is_refused_in_one_line(xml):
    with pytest.raises(ValueError, match="the mjx backend lacks something of this model") as error:
        make_engine(mujoco.MjModel.from_xml_string(xml), 1, "mjx")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_callbacks_are_refused_also_when_they_are_set_later():
    model = mujoco.MjModel.from_xml_string(arm())
    engine = NativeEngine(model, 1)
    state = engine.forward(jnp.zeros(2), jnp.zeros(2))
    mujoco.set_mjcb_passive(lambda model, data: None)
    try:
        for backend in ("native", "mjx"):
            with pytest.raises(ValueError, match="mjcb_passive is set"):
                make_engine(model, 1, backend)
        with pytest.raises(Exception, match="mjcb_passive is set"):
            jax.block_until_ready(engine.step(state, jnp.zeros(1)))
    finally:
        mujoco.set_mjcb_passive(None)
    assert isinstance(engine.step(state, jnp.zeros(1)), PhysicsState)


def test_the_table_for_people_is_the_engines_own():
    page = (Path(features.__file__).parents[2] / "docs" / "physics.md").read_text()
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| ")]
    table = {feature.strip(): (native.strip(), mjx.strip()) for feature, native, mjx in rows}
    for refused in REFUSED:
        expected = tuple(
            "refused" if backend in refused.backends else "as MuJoCo"
            for backend in ("native", "mjx")
        )
        assert table[refused.feature] == expected
        assert refused.reason in page


def test_overridden_equalities_and_places_count_in_both_ways_of_stepping():
    """Of a body that a program moves, and of which equalities hold."""
    model = mujoco.MjModel.from_xml_string(feature_models.BODIES["a body that a program moves"])
    after = []
    for extras in ((), ("xpos",)):
        engine = NativeEngine(model, 40, extras=extras)
        state = engine.forward(jnp.asarray(model.qpos0), jnp.zeros(model.nv))
        hook = jnp.asarray(model.body_pos).at[model.body("hook").id].set([0.0, 1.0, 0.5])
        for overrides in (None, {"eq_active0": jnp.zeros(1)}, {"body_pos": hook}, None):
            after.append(np.asarray(engine.step(state, jnp.zeros(0), overrides).qpos))
    np.testing.assert_array_equal(after[:4], after[4:])
    np.testing.assert_array_equal(after[0], after[3])
    assert len({x.tobytes() for x in after[:3]}) == 3
    with pytest.raises(ValueError, match="no field of numbers called geom_fraction"):
        engine.step(state, jnp.zeros(0), {"geom_fraction": jnp.zeros(1)})
