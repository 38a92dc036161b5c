"""Steps a rival's environments on request: rival_worker.py sync|envpool|gymnax TASK NUM_ENVS

Reads durations in seconds, one a line, and answers each with steps per second. Stand-alone: it runs in interpreters
that lack this project.
"""

import sys

sys.path.pop(0)  # this folder: its `statistics` would stand before Python's own

import os
import time


def sync(task, num_envs):
    """Returns Gymnasium's SyncVectorEnv: Python, one environment after the other."""
    import gymnasium

    vector = gymnasium.make_vec(task, num_envs, vectorization_mode="sync")
    vector.reset(seed=0)
    actions = vector.action_space.sample()

    def run():
        vector.step(actions)
        return num_envs

    return run


def envpool(task, num_envs):
    """Returns EnvPool: C++ environments on all cores."""
    import envpool  # type: ignore[import-not-found]

    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone
    threads = len(affinity(0)) if affinity else os.cpu_count() or 1
    pool = envpool.make_gymnasium(task, num_envs=num_envs, num_threads=threads, seed=0)
    pool.reset()
    space = pool.action_space
    import numpy as np

    rng = np.random.default_rng(0)
    if hasattr(space, "n"):
        actions = rng.integers(0, space.n, num_envs).astype(np.int32)
    else:
        actions = rng.uniform(space.low, space.high, (num_envs, *space.shape))

    def run():
        pool.step(actions)
        return num_envs

    return run


def gymnax(task, num_envs, num_steps=64):
    """Returns gymnax: JAX, the whole loop in one program, as ours is timed."""
    import gymnax  # type: ignore[import-not-found]
    import jax

    env, params = gymnax.make(task)

    sample = jax.vmap(jax.vmap(lambda k: env.action_space(params).sample(k)))
    actions = sample(jax.random.split(jax.random.key(2), (num_steps, num_envs)))

    @jax.jit
    def steps(key, state, actions):
        keys = jax.random.split(key, (num_steps, num_envs))

        def body(state, inputs):
            keys, action = inputs
            out = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, params)
            obs, state, reward = out[:3]
            return state, reward.mean() + obs.mean()

        return jax.lax.scan(body, state, (keys, actions))

    key = jax.random.key(0)
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), params)

    def run():
        nonlocal key, state
        key = jax.random.fold_in(key, 0)
        state, _ = jax.block_until_ready(steps(key, state, actions))
        return num_steps * num_envs

    return run


def main():
    kind, task, num_envs = sys.argv[1:]
    serve({"sync": sync, "envpool": envpool, "gymnax": gymnax}[kind](task, int(num_envs)))


def serve(run):
    """Answers until there is nothing more to read; `run` does some steps and says how many."""
    run()
    answer("ready")
    for line in sys.stdin:
        steps, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < float(line):
            steps += run()
        answer(steps / elapsed)


def answer(text):
    """Writes a line to the process that measures."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
