"""Our tasks beside Gymnasium's, step by step. `worst_errors()` is the table in results/.

Each step starts from the same state: Gymnasium's, rounded to float32 and put back into it, so that what remains is the
rounding of the results to float32, and the solver's start. Gymnasium's solver starts from the last step's solution,
ours cold; "cold" compares with Gymnasium's own warm start switched off in its model, "warm" with Gymnasium as it is.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

import envs
from envs.physics import PhysicsState

TASKS = (
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "Reacher-v5",
    "Pusher-v5",
    "Swimmer-v5",
    "Hopper-v5",
    "HalfCheetah-v5",
    "Walker2d-v5",
    "Ant-v5",
)


class Steps(NamedTuple):
    """T steps of each; observations [T, n], the rest [T]."""

    obs: tuple[np.ndarray, np.ndarray]  # ours, Gymnasium's
    reward: tuple[np.ndarray, np.ndarray]
    terminated: tuple[np.ndarray, np.ndarray]
    info: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]

    def errors(self) -> dict[str, Any]:
        """The largest differences of an observation and a reward, each over max(1, its size)."""
        return {
            "steps": len(self.reward[0]),
            "obs": relative(*self.obs),
            "reward": relative(*self.reward),
            "terminations_equal": bool((self.terminated[0] == self.terminated[1]).all()),
        }


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.max(np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))))


def make_pair(name: str, engine: str = "native", warm: bool = False, **options):
    """Our environment and Gymnasium's, with the same options."""
    if name == "Ant-v5":
        options = {"include_cfrc_ext_in_observation": False} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the mjx backend on a CPU")
        ours = envs.make(name, backend=engine, **options)
    mujoco.set_mju_user_warning(lambda message: None)  # of Gymnasium's old model files
    theirs = gymnasium.make(name, disable_env_checker=True, **options).unwrapped
    if not warm:
        theirs.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
    return ours, theirs


def random_actions(env, seed: int, steps: int) -> np.ndarray:
    """[steps, nu], float32, within the range and a tenth beyond it, each held for one to four steps: robots fall,
    run into their limits, and sometimes do not move."""
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    actions = rng.uniform(1.1 * low, 1.1 * high, (steps, len(low)))
    held = np.maximum.accumulate(np.where(rng.random(steps) < 0.5, np.arange(steps), 0))
    return (actions[held] * (rng.random((steps, 1)) < 0.9)).astype(np.float32)


def synchronised(ours, theirs, steps: int, seed: int = 0) -> Steps:
    """`steps` steps, each from Gymnasium's state; episodes restart as Gymnasium's do, after at most 100 steps."""
    actions = random_actions(ours, seed, steps)
    starts, records = [], []
    theirs.reset(seed=seed)
    t = 0
    for action in actions:
        start = [np.float32(x) for x in (theirs.data.qpos, theirs.data.qvel)]
        theirs.set_state(*(np.float64(x) for x in start))
        starts.append(start)
        obs, reward, terminated, _, info = theirs.step(action)
        records.append((obs.copy(), float(reward), bool(terminated), dict(info)))
        t += 1
        if (terminated and t > 20) or t == 100:
            theirs.reset()
            t = 0
    qpos, qvel = (jnp.stack(x) for x in zip(*starts, strict=True))
    # Start states are always native's: mjx takes half a minute more to compile its own, and they are the same.
    native = ours.replace(backend="native", engine=None)
    states = jax.jit(jax.vmap(native.at_rest))(qpos, qvel)
    return _steps(jax.jit(jax.vmap(lambda s, a: _step(ours, s, a)))(states, actions), records)


def free(ours, theirs, steps: int, seed: int = 0) -> Steps:
    """`steps` steps of both, from the same state, each on its own. Resets nothing."""
    actions = random_actions(ours, seed, steps)
    theirs.reset(seed=seed)
    start = [np.float32(x) for x in (theirs.data.qpos, theirs.data.qvel)]
    theirs.set_state(*(np.float64(x) for x in start))
    records = []
    for action in actions:
        obs, reward, terminated, _, info = theirs.step(action)
        records.append((obs.copy(), float(reward), bool(terminated), dict(info)))

    def body(state, action):
        result = _step(ours, state, action)
        return result[0], result

    run = jax.jit(lambda p, v: jax.lax.scan(body, ours.at_rest(p, v), actions)[1])
    return _steps(run(*start), records)


def _step(env, state: PhysicsState, action):
    after = env.transition(state, action, jax.random.key(0))
    return (
        after,
        env.observation(after),
        env.reward(state, action, after),
        env.terminal(after),
        env.info(state, action, after),
    )


def _steps(result, records) -> Steps:
    _, obs, reward, terminated, info = jax.tree.map(np.asarray, result)
    their_obs, their_reward, their_terminated, their_info = zip(*records, strict=True)
    their_info = {k: np.array([i[k] for i in their_info], float) for k in their_info[0]}
    return Steps(
        (obs, np.stack(their_obs)),
        (reward, np.array(their_reward)),
        (terminated, np.array(their_terminated)),
        (info, their_info),
    )


FREE_STEPS = 10  # before chaos of contacts sets in


def worst_errors(steps: int = 1000, mjx_tasks: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows dict(env, engine, steps, obs, reward, terminations_equal, note) for every task; `mjx_tasks` on mjx too,
    which takes minutes each to compile on a CPU."""
    rows = []
    for name in TASKS:
        same = "each step from the same state"
        runs = [
            ("native", synchronised(*make_pair(name), steps), same),
            (
                "native",
                synchronised(*make_pair(name, warm=True), steps),
                f"{same}; Gymnasium's solver starts warm",
            ),
            ("native", free(*make_pair(name), FREE_STEPS), "free run"),
        ]
        if name in mjx_tasks:
            runs.append(("mjx", synchronised(*make_pair(name, "mjx"), 200), same))
        rows += [
            {"env": name, "engine": engine} | run.errors() | {"note": note}
            for engine, run, note in runs
        ]
    return rows
