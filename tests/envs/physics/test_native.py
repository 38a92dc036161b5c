import copy
import functools
import gc
import os
import threading
import time
import warnings
import weakref

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from envs.biped import body
from envs.physics import PhysicsState, make_engine
from envs.physics.native import NativeEngine

N = 24
SUBSTEPS = 5

PENDULUM = """<mujoco><worldbody><body><joint name="hinge" type="hinge" axis="0 1 0"/>
<geom type="capsule" size=".02" fromto="0 0 0 0 0 -.5"/></body></worldbody>{more}</mujoco>"""
ACTIVATED = PENDULUM.format(
    more="""<actuator><general joint="hinge" dyntype="integrator" gainprm="2"/></actuator>
<sensor><jointvel joint="hinge"/><actuatorfrc actuator="0"/></sensor>"""
).replace('dyntype="integrator"', 'name="0" dyntype="integrator"')


PURE = (mujoco.mjtDisableBit.mjDSBL_AUTORESET, mujoco.mjtDisableBit.mjDSBL_WARMSTART)


def usual_model():
    """The biped, warm start and auto-reset on as MuJoCo has them."""
    model = copy.copy(body.MODEL)
    model.opt.disableflags &= ~sum(PURE)
    return model


@pytest.fixture(scope="module")
def engine():
    return NativeEngine(usual_model(), SUBSTEPS)


@pytest.fixture(scope="module")
def step(engine):
    return jax.jit(jax.vmap(engine.step))


@pytest.fixture(scope="module")
def forward(engine):
    return jax.jit(jax.vmap(engine.forward))


@functools.cache
def random_arrays():
    """qpos, qvel, ctrl of N robots: in the air, on the floor, in it."""
    rng = np.random.default_rng(0)
    qpos = np.tile(body.MODEL.qpos0, (N, 1))
    qpos[:, 2] = rng.uniform(0.18, 0.25, N)
    qpos[:, 3:7] += rng.normal(0, 0.1, (N, 4))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qpos[:, 7:] += rng.uniform(-0.3, 0.3, (N, 6))
    return tuple(
        np.float32(x) for x in (qpos, rng.normal(0, 1, (N, 12)), rng.uniform(-1, 1, (N, 6)))
    )


@pytest.fixture(scope="module")
def batch(forward):
    qpos, qvel, ctrl = random_arrays()
    return forward(qpos, qvel), jnp.asarray(ctrl)


def test_without_islands_one_robot_moves_as_with_them():
    island = mujoco.mjtDisableBit.mjDSBL_ISLAND
    model = usual_model()
    model.opt.disableflags = int(sum(PURE))
    engine = NativeEngine(model, SUBSTEPS)
    assert engine.model.opt.disableflags & island
    qpos, qvel, ctrl = random_arrays()
    out = jax.vmap(engine.step)(jax.vmap(engine.forward)(qpos, qvel), ctrl)
    assert not model.opt.disableflags & island
    data = mujoco.MjData(model)
    for i in range(N):
        data.qpos, data.qvel, data.ctrl = qpos[i], qvel[i], ctrl[i]
        mujoco.mj_step(model, data, SUBSTEPS)
        np.testing.assert_array_equal(out.qpos[i], np.float32(data.qpos))
        np.testing.assert_array_equal(out.sensordata[i], np.float32(data.sensordata))
    two = PENDULUM.format(more="").replace(
        "<worldbody>", "<worldbody><body><joint/><geom size='.1'/></body>"
    )
    assert not NativeEngine(mujoco.MjModel.from_xml_string(two), 1).model.opt.disableflags & island


def part(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def plain(model, qpos, qvel, ctrl, steps, act=None):
    """A loop of mj_step in float64."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    if act is not None:
        data.act[:] = act
    for _ in range(steps):
        mujoco.mj_step(model, data)
    return data


# --- what it computes -----------------------------------------------------------------------------------------------


def test_step_is_a_loop_of_mj_step(engine, step, batch):
    state, ctrl = batch
    after = step(state, ctrl)
    assert after.qpos.dtype == after.qvel.dtype == after.sensordata.dtype == jnp.float32
    for i in range(N):
        data = plain(engine.model, state.qpos[i], state.qvel[i], ctrl[i], SUBSTEPS)
        # exactly what float64 rounds to
        np.testing.assert_array_equal(after.qpos[i], np.float32(data.qpos))
        np.testing.assert_array_equal(after.qvel[i], np.float32(data.qvel))
        np.testing.assert_array_equal(after.sensordata[i], np.float32(data.sensordata))
    assert (after.sensordata > 0).any()


def test_forward_is_mj_forward(engine, batch):
    qpos, qvel, _ = random_arrays()
    state, _ = batch
    assert_equal((state.qpos, state.qvel), (qpos, qvel))
    assert state.act is None
    assert state.extras is None
    data = mujoco.MjData(engine.model)
    for i in range(N):
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(engine.model, data)
        np.testing.assert_array_equal(state.sensordata[i], np.float32(data.sensordata))
    assert (state.sensordata > 0).any()
    assert (state.sensordata.sum(1) == 0).any()


def test_ctrl_is_clamped_as_mujoco_does(step, batch):
    state, ctrl = batch
    assert_equal(step(state, 5 * jnp.sign(ctrl)), step(state, jnp.sign(ctrl)))


def test_the_callers_model_is_left_alone():
    model = usual_model()
    engine = NativeEngine(model, 1)
    assert not any(model.opt.disableflags & flag for flag in PURE)
    assert all(engine.model.opt.disableflags & flag for flag in PURE)


# --- one crossing, pure ---------------------------------------------------------------------------------------------


def test_one_callback_per_physics_step_for_seeds_and_environments(engine, batch):
    state, ctrl = part(batch, slice(0, 12))
    nested = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), state)
    actions = ctrl.reshape(3, 4, 6)
    body = jax.vmap(jax.vmap(engine.step))

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: (body(s, actions), None), state, length=7)[0]

    jax.block_until_ready(run(nested))  # compiled
    before = engine.calls
    final = jax.block_until_ready(run(nested))
    assert engine.calls - before == 7
    flat = state
    for _ in range(7):
        flat = jax.vmap(engine.step)(flat, ctrl)
    assert_equal(jax.tree.map(lambda x: x.reshape(12, *x.shape[2:]), final), flat)


def test_results_depend_on_the_arguments_alone(engine, step, batch):
    """Neither order, nor batch size, nor earlier calls change a single bit."""
    state, ctrl = batch
    after = step(state, ctrl)
    order = np.random.default_rng(1).permutation(N)
    assert_equal(step(part(state, order), ctrl[order]), part(after, order))
    for size in (1, 3, 17):
        head = slice(0, size)
        assert_equal(step(part(state, head), ctrl[head]), part(after, head))
    alone = jax.jit(engine.step)(part(state, 5), ctrl[5])
    assert_equal(alone, part(after, 5))
    step(state.replace(qvel=state.qvel + 3), -ctrl)  # would leave other warm starts behind
    assert_equal(step(state, ctrl), after)
    assert_equal(
        NativeEngine(engine.model, SUBSTEPS, threads=1).step(part(state, 5), ctrl[5]), alone
    )


def test_results_do_not_share_memory_with_the_next_call(step, batch):
    state, ctrl = batch
    first = step(state, ctrl)
    copy = jax.tree.map(np.array, first)
    jax.block_until_ready(step(state, -ctrl))
    assert_equal(first, copy)


# --- when it diverges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["qpos", "qvel"])
@pytest.mark.parametrize("bad", [1e12, 1e30, np.nan, np.inf], ids=str)
def test_divergence_is_nan_for_that_environment_alone(
    step, batch, field, bad, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    state, ctrl = batch
    clean = step(state, ctrl)
    broken = state.replace(**{field: getattr(state, field).at[4, 8].set(bad)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = jax.block_until_ready(step(broken, ctrl))
    for x in jax.tree.leaves(part(after, 4)):
        assert np.isnan(x).all()
    others = np.arange(N) != 4
    assert_equal(part(after, others), part(clean, others))
    assert_equal(step(state, ctrl), clean)
    assert list(tmp_path.iterdir()) == []  # no MUJOCO_LOG.TXT
    assert capfd.readouterr() == ("", "")


def test_divergence_on_the_way(engine, step, batch):
    """Finite at first, diverged before the last substep."""
    state, ctrl = batch
    spinning = state.replace(qvel=state.qvel.at[4].set(1e8))
    after = step(spinning, ctrl)
    assert np.isnan(after.qpos[4]).all()
    assert np.isfinite(np.delete(after.qpos, 4, 0)).all()


# --- overrides ------------------------------------------------------------------------------------------------------


def test_overrides_change_only_their_environment_and_do_not_stick(engine, step, batch):
    state, ctrl = batch
    clean = step(state, ctrl)
    with_overrides = jax.jit(jax.vmap(engine.step))
    damping = np.tile(engine.model.dof_damping, (N, 1)).astype(np.float32)
    damping[3] *= 2
    gear = np.tile(engine.model.actuator_gear, (N, 1, 1)).astype(np.float32)
    gear[5] *= 0.5
    others = np.arange(N) != 3
    after = with_overrides(state, ctrl, {"dof_damping": damping})
    assert_equal(part(after, others), part(clean, others))
    assert not np.allclose(after.qpos[3], clean.qpos[3], atol=1e-5)
    # as a model with that damping
    model = copy.copy(engine.model)
    model.dof_damping[:] = damping[3]
    data = plain(model, state.qpos[3], state.qvel[3], ctrl[3], SUBSTEPS)
    np.testing.assert_array_equal(after.qpos[3], np.float32(data.qpos))
    # another field: the damping is the model's own again
    after = with_overrides(state, ctrl, {"actuator_gear": gear})
    others = np.arange(N) != 5
    assert_equal(part(after, others), part(clean, others))
    assert not np.allclose(after.qpos[5], clean.qpos[5], atol=1e-5)
    both = with_overrides(state, ctrl, {"dof_damping": damping, "actuator_gear": gear})
    others = (np.arange(N) != 3) & (np.arange(N) != 5)
    assert_equal(part(both, others), part(clean, others))
    assert_equal(part(both, 5), part(after, 5))
    assert_equal(step(state, ctrl), clean)


def test_overrides_shared_by_all_environments(engine, batch):
    state, ctrl = batch
    damping = jnp.asarray(engine.model.dof_damping * 2)
    shared = jax.vmap(engine.step, (0, 0, None))(state, ctrl, {"dof_damping": damping})
    alone = engine.step(part(state, 7), ctrl[7], {"dof_damping": damping})
    assert_equal(part(shared, 7), alone)


# --- extras ---------------------------------------------------------------------------------------------------------


EXTRAS = ("xpos", "cfrc_ext")


@pytest.fixture(scope="module")
def watching():
    return NativeEngine(usual_model(), SUBSTEPS, extras=EXTRAS)


def test_extras_are_what_mujoco_leaves_and_change_nothing_else(watching, step, batch):
    state, ctrl = batch
    after = jax.jit(jax.vmap(watching.step))(state, ctrl)
    assert_equal(after.replace(extras=None), step(state, ctrl))
    for i in range(N):
        data = plain(watching.model, state.qpos[i], state.qvel[i], ctrl[i], SUBSTEPS)
        mujoco.mj_rnePostConstraint(watching.model, data)
        for name in EXTRAS:
            np.testing.assert_array_equal(after.extras[name][i], np.float32(getattr(data, name)))
    assert (np.abs(after.extras["cfrc_ext"]) > 0).any()


def test_extras_of_forward_are_exact(watching, forward, batch):
    qpos, qvel, _ = random_arrays()
    state = jax.jit(jax.vmap(watching.forward))(qpos, qvel)
    assert_equal(state.replace(extras=None), forward(qpos, qvel))
    data = mujoco.MjData(watching.model)
    for i in range(N):
        data.qpos[:], data.qvel[:] = qpos[i], qvel[i]
        mujoco.mj_forward(watching.model, data)
        np.testing.assert_array_equal(state.extras["xpos"][i], np.float32(data.xpos))


def test_extras_diverge_alone_and_depend_on_the_arguments_alone(watching, batch):
    state, ctrl = batch
    step = jax.jit(jax.vmap(watching.step))
    clean = step(state, ctrl)
    for bad in (np.nan, 1e8, 1e12, 1e30):
        after = step(state.replace(qvel=state.qvel.at[4, 8].set(bad)), ctrl)
        if bad != 1e8:  # which may be survived
            assert all(np.isnan(x[4]).all() for x in jax.tree.leaves(after))
        others = np.arange(N) != 4
        assert_equal(part(after, others), part(clean, others))
    assert_equal(step(part(state, slice(0, 3)), ctrl[:3]), part(clean, slice(0, 3)))
    assert_equal(jax.jit(watching.step)(part(state, 5), ctrl[5]), part(clean, 5))


def test_extras_with_overrides(watching, batch):
    state, ctrl = batch
    damping = np.tile(watching.model.dof_damping, (N, 1)).astype(np.float32)
    damping[3] *= 2
    step = jax.jit(jax.vmap(watching.step))
    clean, after = step(state, ctrl), step(state, ctrl, {"dof_damping": damping})
    others = np.arange(N) != 3
    assert_equal(part(after, others), part(clean, others))
    assert not np.allclose(after.qpos[3], clean.qpos[3], atol=1e-5)


def test_unknown_extras_are_refused():
    with pytest.raises(ValueError, match="no engine serves efc_force: extras are xpos, "):
        make_engine(usual_model(), 1, "native", ("xpos", "efc_force"))


# --- threads --------------------------------------------------------------------------------------------------------


def test_environments_of_one_model_share_an_engine():
    first = make_engine(usual_model(), SUBSTEPS, "native")
    assert make_engine(usual_model(), SUBSTEPS, "native") is first
    assert make_engine(usual_model(), SUBSTEPS + 1, "native") is not first
    assert make_engine(usual_model(), SUBSTEPS, "native", ("xpos",)) is not first
    slower = usual_model()
    slower.opt.timestep *= 2
    assert make_engine(slower, SUBSTEPS, "native") is not first


def test_an_engine_that_nobody_has_is_released():
    model = usual_model()
    model.opt.timestep *= 3  # shared with no other test
    dropped = weakref.ref(make_engine(model, 1, "native"))
    gc.collect()
    assert dropped() is None


def test_engines_start_no_threads_of_their_own(watching, batch):
    state, ctrl = batch
    before = len(os.listdir("/proc/self/task"))
    engines = [NativeEngine(usual_model(), SUBSTEPS, extras=e) for e in ((), EXTRAS, ())]
    for engine in engines:
        jax.vmap(engine.step)(state, ctrl)
    jax.vmap(watching.step)(state, ctrl)
    assert len(os.listdir("/proc/self/task")) == before


def test_host_threads_and_engines_at_once(engine, step, batch):
    """Two threads on one engine and two on another, which MuJoCo's pool alone does not survive."""
    state, ctrl = batch
    expected = step(state, ctrl)
    other = jax.jit(jax.vmap(NativeEngine(engine.model, SUBSTEPS).step))
    jax.block_until_ready(other(state, ctrl))
    failures = []

    def work(function):
        for _ in range(40):
            try:
                assert_equal(function(state, ctrl), expected)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(f,)) for f in (step, step, other, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_the_pool_is_entered_by_one_thread_at_a_time(monkeypatch):
    engine, inside, most = NativeEngine(usual_model(), SUBSTEPS), [], []

    class Pool:
        def rollout(self, *args, **kwargs):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    monkeypatch.setattr(engine, "_pool", Pool())
    packed = np.zeros((3, 13 + 12 + 6))
    args = (packed, {}, SUBSTEPS)
    threads = [threading.Thread(target=engine._advance, args=args) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == [1] * 5


# --- other models ---------------------------------------------------------------------------------------------------


def test_model_without_actuators_and_sensors():
    model = mujoco.MjModel.from_xml_string(PENDULUM.format(more=""))
    engine = NativeEngine(model, 3)
    state = engine.forward(jnp.array([0.3]), jnp.array([0.5]))
    assert state.act is state.sensordata is None
    assert len(jax.tree.leaves(state)) == 2
    after = engine.step(state, jnp.zeros(0))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    data = plain(engine.model, state.qpos, state.qvel, [], 3)
    np.testing.assert_array_equal(after.qpos, np.float32(data.qpos))
    np.testing.assert_array_equal(after.qvel, np.float32(data.qvel))


def test_model_with_activations():
    engine = NativeEngine(mujoco.MjModel.from_xml_string(ACTIVATED), 3)
    state = engine.forward(jnp.array([0.3]), jnp.array([0.5]))
    np.testing.assert_array_equal(state.act, [0.0])
    np.testing.assert_array_equal(state.sensordata, [0.5, 0.0])
    state = state.replace(act=jnp.array([0.25]))
    after = engine.step(state, jnp.array([1.0]))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    data = plain(engine.model, state.qpos, state.qvel, [1.0], 3, act=[0.25])
    np.testing.assert_array_equal(after.act, np.float32(data.act))
    np.testing.assert_array_equal(after.qpos, np.float32(data.qpos))
    np.testing.assert_array_equal(after.sensordata, np.float32(data.sensordata))


@pytest.mark.parametrize("size", [1, 5, 7])
def test_vectors_of_another_size_are_refused(engine, batch, size):
    """One number was held on all actuators."""
    state = part(batch[0], 0)
    with pytest.raises(ValueError, match=rf"ctrl must have the shape \(6,\) .* got \({size},\)"):
        jax.eval_shape(engine.step, state, jnp.zeros(size))
    with pytest.raises(ValueError, match=rf"qpos must have the shape \(13,\) .* \({size},\)"):
        jax.eval_shape(engine.forward, jnp.zeros(size), state.qvel)


@pytest.mark.parametrize("substeps", [0, 2.5])
def test_impossible_substeps(unchecked, substeps):
    with pytest.raises(ValueError, match=f"substeps must be an integer .* got {substeps}"):
        make_engine(usual_model(), substeps, "native")


def test_choice_of_engine(unchecked):
    model = body.MODEL
    assert isinstance(make_engine(model, 5, "native"), NativeEngine)
    if jax.default_backend() == "cpu":
        assert isinstance(make_engine(model, 5), NativeEngine)
        with pytest.warns(UserWarning, match="about ten times slower"):
            make_engine(model, 5, "mjx")
    with pytest.raises(ValueError, match="'natvie': did you mean native") as error:
        make_engine(model, 5, "natvie")
    assert "\n" not in str(error.value)


def test_state_is_a_record_without_empty_leaves(batch):
    state, _ = batch
    assert isinstance(state, PhysicsState)
    assert {x.size for x in jax.tree.leaves(state)} == {N * 13, N * 12, N * 8}
