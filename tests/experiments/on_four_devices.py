"""Runs on 1, 2 and 4 devices of one process, for `test_devices.py`: prints what it found, as JSON.

Devices draw their random numbers for themselves, so what is compared here has none: an environment and a policy whose
chance is a function of what they see, and prompts and responses that are the device's part of the whole batch's.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

from tests import fast_compile  # isort: skip  # noqa: F401  before JAX starts

import dataclasses
import json
import sys

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import envs
from agents import ALGORITHMS, TOKEN_ALGORITHMS
from agents.core import across
from agents.on_policy import actor_critic
from envs.base import Env, static
from experiments.run import programs, spec

ITERATIONS = 2


def chance(x):
    """A number in (0, 1) that looks random, for each row of x [..., 2]; blind to rounding errors, as long as none
    crosses a boundary between two hundredths."""
    n = jnp.round(100 * x).astype(jnp.int32)
    return ((7919 * n[..., 0] + 104729 * n[..., 1]) % 997 + 0.5) / 997


@flax.struct.dataclass
class Drift(Env):
    """A walk that ends outside of [-2, 2], and starts again at a place that follows from where it ended."""

    max_episode_steps: int = static(7)
    observation_space = gymnasium.spaces.Box(-4.0, 4.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, key):
        return jax.random.uniform(key, (2,), minval=-1.0)

    def restart(self, state, key):
        return jnp.stack([chance(state) - 0.5, chance(state[::-1]) - 0.5])

    def transition(self, state, action, key):
        return jnp.clip(state + 0.5 * action + 0.1 * jnp.sin(state[::-1]), -4.0, 4.0)

    def observation(self, state):
        return state

    def reward(self, state, action, next_state):
        return 1.0 - jnp.sum(jnp.square(next_state)) + 0.1 * action[0]

    def terminal(self, state):
        return jnp.max(jnp.abs(state)) > 2.0


envs.register("drift", Drift)


def without_chance(algo):
    """The learner with a policy that draws by `chance`."""
    policy = actor_critic(algo.config, algo.env)

    def act(params, obs, env_steps, key):
        dist = policy.distribution(params, obs)
        action = dist.mode() + jax.scipy.special.ndtri(chance(obs))[..., None]
        return action, dist.log_prob(action)

    algo.policy = policy._replace(act=act)
    return algo


def one_batch(algo):
    """The token learner, each device's prompts and responses being its part of those of one device."""
    prompts, respond = algo.env.prompts, algo.respond

    def part(x, n):
        return jax.lax.dynamic_slice_in_dim(x, across.index() * n, n)

    class Env:
        def __getattr__(self, name):
            return getattr(env, name)

        def prompts(self, key, n):
            return part(prompts(key, n * across.devices()), n)

    def respond_to_all(params, here, key, sampling=None, repeats=1):
        if across.devices() > 1:
            here = jax.lax.all_gather(here, across.AXIS, tiled=True)
        found = respond(params, here, key, sampling, repeats)
        n = found.length.shape[0] // across.devices()
        return jax.tree.map(lambda x: part(x, n), found)

    env, algo.env, algo.respond = algo.env, Env(), respond_to_all
    return algo


def control(name, devices, **settings):
    sizes = {"num_envs": 8, "num_steps": 8, "num_minibatches": 1, "hidden_sizes": (8,)}
    config = ALGORITHMS[name].Config(total_steps=4096, **sizes, **settings)
    return spec.Spec("drift", {}, name, config, 0, 1, devices=devices)


def tokens(name, devices, **settings):
    sizes = {"num_responses": 16, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1}
    sizes |= {"mlp_width": 8, "imitation_steps": 1, "num_minibatches": 1}
    config = TOKEN_ALGORITHMS[name].Config(total_steps=4096, **sizes, **settings)
    return spec.Spec("tokens-sort", {}, name, config, 0, 1, "tokens", devices=devices)


def run(what, prepare):
    """Parameters, statistics and metrics after some iterations, as one list of numbers; and the program's text."""
    build = spec.learner
    programs.learner = lambda *arguments: prepare(build(*arguments))
    across_key, across.own_key = across.own_key, lambda key: key
    algo = what.build()  # on several devices, `programs_of` makes the learner of a part
    made = programs.programs_of(what, prepare(algo) if what.devices == 1 else algo)
    states, rows = made.advance(made.init(spec.initial_keys(what)), ITERATIONS)
    across.own_key = across_key
    states = made.gather(states)
    kept = states.params, states.opt_state, states.env_steps, getattr(states, "obs_statistics", 0)
    rows = {name: x[:ITERATIONS] for name, x in rows.items()}
    numbers = jax.tree.leaves(jax.device_get((kept, rows)))
    return [np.asarray(x, np.float64).ravel() for x in numbers], sorted(rows), made


def furthest(a, b):
    """The largest difference of two lists of arrays, in units of 1 + their size."""
    return max(
        float(np.max(np.abs(x - y) / (1 + np.abs(x)), initial=0.0))
        for x, y in zip(a, b, strict=True)
    )


CASES = {
    "ppo": (control, without_chance, (2, 4), {"num_epochs": 2}),
    "ppo-kl": (control, without_chance, (4,), {"num_epochs": 2, "objective": "kl"}),
    "a2c": (control, without_chance, (4,), {"whiten_advantages": True}),
    "impala": (control, without_chance, (4,), {"num_epochs": 2, "whiten_advantages": True}),
    "token-ppo": (tokens, one_batch, (4,), {"kl_in_reward": 0.1}),
    "token-grpo": (tokens, one_batch, (4,), {"group_size": 2, "kl_coefficient": 0.1}),
    "token-rloo": (tokens, one_batch, (4,), {"group_size": 2}),
    "token-reinforce": (tokens, one_batch, (4,), {"whiten_advantages": True}),
}


def compare(name):
    make, prepare, numbers, settings = CASES[name]
    algo = name.removeprefix("token-").removesuffix("-kl")
    if make is tokens and algo in ("rloo", "reinforce"):
        alone_spec = _without_minibatches(algo, 1, settings)
    else:
        alone_spec = make(algo, 1, **settings)
    alone, names, _ = run(alone_spec, prepare)
    found = {}
    for devices in numbers:
        several, again, made = run(dataclasses.replace(alone_spec, devices=devices), prepare)
        assert names == again
        found[f"{name} on {devices}"] = furthest(alone, several)
    if make is control:
        text = made.chunk._compiled.as_text()
        found[f"{name} reduces"] = text.count("all-reduce(") + text.count("all-reduce-start(")
        found[f"{name} gathers"] = text.count("all-gather") + text.count("all-to-all")
    return found


def _without_minibatches(algo, devices, settings):
    sizes = {"num_responses": 16, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1}
    sizes |= {"mlp_width": 8, "imitation_steps": 1}
    config = TOKEN_ALGORITHMS[algo].Config(total_steps=4096, **sizes, **settings)
    return spec.Spec("tokens-sort", {}, algo, config, 0, 1, "tokens", devices=devices)


def host_calls():
    """The sizes of batches that cross to C MuJoCo in one rollout on two devices, with an update."""
    from envs.physics.native import NativeEngine

    sizes = {"num_envs": 8, "num_steps": 3, "num_minibatches": 1, "hidden_sizes": (8,)}
    config = ALGORITHMS["ppo"].Config(total_steps=4096, num_epochs=1, **sizes)
    what = spec.Spec("InvertedPendulum-v5", {}, "ppo", config, 0, 1, devices=2)
    made = programs.programs_of(what, what.build())
    states = made.init(spec.initial_keys(what))
    crossed, step = [], NativeEngine._advance

    def counted(self, packed, fields, substeps):
        out = step(self, packed, fields, substeps)
        crossed.append((int(np.prod(out.shape[:-1])), substeps))
        return out

    NativeEngine._advance = counted
    jax.block_until_ready(made.advance(states, 1))
    return crossed


def main():
    programs_learner = programs.learner
    found = {}
    for name in sys.argv[1:]:
        if name == "host":
            programs.learner = programs_learner
            found["host"] = host_calls()
        else:
            found |= compare(name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
