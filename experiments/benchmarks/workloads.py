"""Workloads of the benchmarks. Each function prepares and compiles a workload, and returns a function that takes some
steps and returns their number."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco.rollout import Rollout

import envs
from envs import base
from envs.cores import usable_cores
from envs.mujoco_env import MujocoEnv
from envs.physics import Backend, make_engine
from envs.process import prepare_mujoco
from experiments.evaluation.evaluator import evaluator
from experiments.run.programs import Programs

RESET_EVERY = 40  # control steps
ITERATIONS = 4  # of training, in one call of its program


def rate(run: Callable[[], int], seconds: float) -> float:
    """Returns steps per second; `run` takes some steps and returns their number."""
    steps, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        steps += run()
    return steps / elapsed


def walker(backend: Backend) -> MujocoEnv:
    """Returns the walking robot on an engine."""
    env = envs.make("walker", backend=backend)
    assert isinstance(env, MujocoEnv)
    return env


def raw_physics(env: MujocoEnv, num_envs: int, stripped: bool = False) -> Callable[[], int]:
    """Returns a workload of the environment's C MuJoCo alone, through `mujoco.rollout` on every core, every state reset
    after RESET_EVERY control steps. Physics is as MuJoCo's Python package has it, or, if `stripped`, as our engine
    steps: without MuJoCo's clock, and with the optimised copy of the model (envs/process.py,
    envs/physics/optimised.py)."""
    model = env.engine.stepped if stripped else env.engine.model
    substeps = env.engine.substeps
    start = jax.jit(jax.vmap(env.initial))(jax.random.split(jax.random.key(0), num_envs))
    start = env.physics(start)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
    initial = np.zeros((num_envs, size))
    initial[:, 1:] = np.concatenate([start.qpos, start.qvel], axis=1)
    states = np.zeros((num_envs, substeps, size))
    sensors = np.zeros((num_envs, substeps, model.nsensordata))
    data = [mujoco.MjData(model) for _ in range(usable_cores())]
    pool = Rollout(nthread=len(data))
    models = [model] * num_envs
    rng = np.random.default_rng(0)
    # Torques are drawn beforehand: they are the policy's business, not the physics'.
    low, high = env.action_space.low, env.action_space.high
    torques = rng.uniform(low, high, (RESET_EVERY, num_envs, model.nu))
    torques = torques[:, :, None].repeat(substeps, axis=2)

    def run() -> int:
        state = initial.copy()
        if not stripped:
            mujoco.set_mjcb_time(None)
        for torque in torques:
            pool.rollout(
                models,
                data,
                state,
                torque,
                skip_checks=True,
                nstep=substeps,
                state=states,
                sensordata=sensors,
            )
            state[:] = states[:, -1]
        prepare_mujoco()
        return RESET_EVERY * num_envs

    run()
    return run


def environment(
    num_envs: int,
    backend: Backend = "native",
    num_steps: int = 64,
    solver: tuple[int, int] | None = None,
) -> Callable[[], int]:
    """Returns a workload of the walker under jit; `solver` is (iterations, line-search steps) in place of the model's
    own."""
    env = walker(backend)
    if solver is not None:
        model = copy.copy(env.engine.model)
        model.opt.iterations, model.opt.ls_iterations = solver
        engine = make_engine(model, env.engine.substeps, backend)
        env = dataclasses.replace(env, engine=engine)

    return stepping(env, num_envs, num_steps)


def stepping(env: base.Env, num_envs: int, num_steps: int = 64) -> Callable[[], int]:
    """Returns a workload of any environment under jit: random actions, episodes one after another."""
    # Beforehand, as for `raw_physics` and the rivals: actions are the policy's business.
    actions = _random_actions(env.action_space, jax.random.key(2), (num_steps, num_envs))

    @jax.jit
    def steps(key, running, actions):
        bank_key, env_key = jax.random.split(key)
        bank = base.start_states(env, bank_key, env.reset_bank) if env.reset_bank else None
        keys = jax.random.split(env_key, (num_steps, num_envs))

        def body(running, inputs):
            action, keys = inputs
            running, timestep = jax.vmap(base.step, (None, 0, 0, 0, None))(
                env, keys, running, action, bank
            )
            return running, timestep.reward.mean() + timestep.obs.mean()

        return jax.lax.scan(body, running, (actions, keys))

    running, _ = jax.jit(jax.vmap(base.reset, (None, 0)))(
        env, jax.random.split(jax.random.key(0), num_envs)
    )
    key = jax.random.key(1)

    def run() -> int:
        nonlocal running, key
        key = jax.random.fold_in(key, 0)
        running, _ = jax.block_until_ready(steps(key, running, actions))
        return num_steps * num_envs

    run()
    return run


def _random_actions(space, key, lead):
    if isinstance(space, gymnasium.spaces.Discrete):
        return jax.random.randint(key, lead, 0, int(space.n))
    return jax.random.uniform(key, (*lead, *space.shape), minval=space.low, maxval=space.high)


def same_robots(num_envs: int) -> Callable[[], int]:
    """Returns a workload of the environment under jit on the robots of `raw_physics`: no episode ends, and every robot
    is reset after RESET_EVERY steps. Its distance from raw speed is overhead. `environment` has more physics to do:
    robots stand up again as soon as they fall, and robots on their feet have contacts to solve."""
    env = walker("native")
    start = jax.jit(jax.vmap(env.initial))(jax.random.split(jax.random.key(0), num_envs))
    running = base.Running(start, jnp.zeros(num_envs, jnp.int32))
    shape = (RESET_EVERY, num_envs, 6)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=-1.0, maxval=1.0)

    @jax.jit
    def steps(running, actions):
        def body(running, action):
            key = jax.random.key(0)  # the walker's transitions are deterministic
            running, timestep = jax.vmap(base.advance, (None, None, 0, 0))(
                env, key, running, action
            )
            return running, timestep.reward.mean() + timestep.obs.mean()

        return jax.lax.scan(body, running, actions)

    def run() -> int:
        jax.block_until_ready(steps(running, actions))
        return RESET_EVERY * num_envs

    run()
    return run


def training(algo: Any, num_seeds: int = 1) -> Callable[[], int]:
    """Returns a workload of a learner's iterations, `num_seeds` at once, as the training loop runs them, after its
    warm-up."""
    programs = Programs(algo, num_seeds, evaluator("control").run)
    states = programs.init(jax.vmap(jax.random.key)(jnp.arange(num_seeds)))

    def run() -> int:
        nonlocal states
        states, _ = jax.block_until_ready(programs.chunk(states, jnp.int32(ITERATIONS)))
        return ITERATIONS * algo.iteration_steps * num_seeds

    run()
    return run
