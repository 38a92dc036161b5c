"""Fingerprints of every algorithm: a small `init` and three `step`s, a digest of each leaf.

    python -m tests.fingerprint record FILE      # of this tree
    python -m tests.fingerprint compare FILE     # against this tree: exit code 1 where a leaf differs
    python -m tests.fingerprint compare FILE control/ppo tokens    # of these alone

Compiled as tests are, which is faster. Bit for bit, so record and compare on one machine, in one environment: the guard
of a change that must not change a number. Keys are leaves' paths, so that a renamed state field shows as one.
"""

from __future__ import annotations

from tests import fast_compile  # isort: skip  # noqa: F401  before JAX starts

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

import envs
from agents import ALGORITHMS, TOKEN_ALGORITHMS

SMALL = {
    "total_steps": 4096,
    "num_envs": 4,
    "num_steps": 16,
    "num_minibatches": 2,
    "num_epochs": 2,
    "value_epochs": 2,
    "hidden_sizes": (16, 16),
    "warmup_steps": 64,
    "buffer_size": 512,
    "batch_size": 16,
    "group_size": 2,
    "update_ratio": 0.25,
    "num_responses": 16,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 32,
    "imitation_steps": 3,
    "kl_coefficient": 0.02,
    "entropy_coefficient": 0.01,
    "num_pairs": 32,
    "segment_length": 8,
    "initial_reward_updates": 3,
}
CONTROL = {
    "ppo": ("walker", "CartPole-v1", "HalfCheetah-v5"),
    "pref-ppo": ("walker", "CartPole-v1"),
    "trpo": ("walker", "CartPole-v1"),
    "a2c": ("walker", "CartPole-v1"),
    "impala": ("walker", "CartPole-v1"),
    "reinforce": ("walker", "CartPole-v1"),
    "grpo": ("walker", "CartPole-v1"),
    "dqn": ("walker", "CartPole-v1"),
    "pqn": ("walker", "CartPole-v1"),
    "sac": ("walker", "Hopper-v5"),
    "td3": ("walker", "Hopper-v5"),
    "ddpg": ("walker",),
    "crossq": ("walker",),
    "xqc": ("walker",),
    "q-learning": ("FrozenLake-v1",),
    "sarsa": ("FrozenLake-v1",),
    "expected-sarsa": ("FrozenLake-v1",),
    "value-iteration": ("FrozenLake-v1",),
    "policy-iteration": ("FrozenLake-v1",),
}


def fingerprints(wanted: tuple[str, ...] = ("",)) -> dict[str, str]:
    """Returns the digest of each leaf, by cell ("domain/algorithm/environment"), step and path; of cells that begin as
    `wanted`."""
    cells = [
        (f"control/{name}/{env}/", kind, env)
        for name, kind in ALGORITHMS.items()
        for env in CONTROL[name]
    ] + [(f"tokens/{name}/", kind, "tokens-sort") for name, kind in TOKEN_ALGORITHMS.items()]
    out: dict[str, str] = {}
    for name, kind, env in cells:
        if name.startswith(wanted):
            out |= _digests(name, kind, envs.make(env))
    return out


def _digests(name: str, kind: type, env: envs.Env) -> dict[str, str]:
    config_type = kind.Config
    fields = config_type.__dataclass_fields__
    algo = kind(config_type(**{k: v for k, v in SMALL.items() if k in fields}), env)
    state = jax.jit(algo.init)(jax.random.key(0))
    out = _leaves(f"{name}init", state)
    step = jax.jit(algo.step)
    for i in range(3):
        state, metrics = step(state)
        out |= _leaves(f"{name}step {i}", (state, metrics))
    print(name, file=sys.stderr)
    return out


def _leaves(name: str, tree: object) -> dict[str, str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{name}{jax.tree_util.keystr(path)}": _digest(leaf) for path, leaf in found}


def _digest(leaf: jax.Array) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    x = np.asarray(leaf)
    return hashlib.sha256(f"{x.dtype}{x.shape}".encode() + x.tobytes()).hexdigest()[:16]


def main(what: str, file: str, *wanted: str) -> int:
    found = fingerprints(wanted or ("",))
    if what == "record":
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
        return 0
    stored = json.loads(Path(file).read_text())
    stored = {name: x for name, x in stored.items() if name.startswith(wanted or ("",))}
    differ = sorted(
        name for name in stored.keys() | found.keys() if stored.get(name) != found.get(name)
    )
    print(f"{len(stored)} leaves recorded, {len(found)} now, {len(differ)} differ")
    print("\n".join(differ[:40]))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
