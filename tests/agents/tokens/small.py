"""Settings that are quick to compile and to run, and first steps with them."""

import jax

SMALL = {
    "total_steps": 10_000,
    "num_responses": 16,
    "imitation_steps": 3,
    "imitation_responses": 16,
    "imitation_learning_rate": 0.02,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 16,
}


def first_rollout(algo, key=None):
    """Returns what `collect` does from a fresh state; learners with the same `init` share its compiled program."""
    return jax.jit(algo.collect)(jax.jit(algo.init)(jax.random.key(0) if key is None else key))


def first_step(algo, key=None):
    """Returns what `step` does from a fresh state; `init` is compiled apart, as above."""
    return jax.jit(algo.step)(jax.jit(algo.init)(jax.random.key(0) if key is None else key))
