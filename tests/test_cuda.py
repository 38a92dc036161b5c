"""What a GPU would be given, read on a CPU: one iteration of each kind of learner, lowered for CUDA and not compiled.

A host callback would stall the device at each step, a 64-bit float run at a fraction of its speed, and a custom call
that is not known may not exist there. The programs' sizes are bounded from above, where an unrolled loop shows at once.
"""

import re

import jax
import pytest

import envs
from agents import ALGORITHMS, TOKEN_ALGORITHMS

# Cholesky factorisation, in MJX's solver.
KNOWN_CALLS = {"cusolver_potrf_ffi"}
MEGABYTE = 2**20

SMALL_NETWORK = {"hidden_sizes": (16, 16)}
REPLAY = {"total_steps": 2_000, "buffer_size": 1_000, "warmup_steps": 100, **SMALL_NETWORK}
ROLLOUT = {"num_envs": 8, "num_steps": 4, "num_minibatches": 2, **SMALL_NETWORK}
TOKENS = {"num_responses": 16, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "mlp_width": 32}

ON_MJX = (
    pytest.mark.slow,  # tracing MJX takes 10 s
    pytest.mark.filterwarnings("ignore:the mjx backend on a CPU:UserWarning"),
)


@pytest.mark.parametrize(
    ("algo", "env", "config", "megabytes"),
    [
        pytest.param("ppo", "walker", {**ROLLOUT, "num_epochs": 2}, 4.0, marks=ON_MJX),
        ("ppo", "CartPole-v1", {**ROLLOUT, "num_epochs": 2}, 0.5),
        ("pqn", "CartPole-v1", ROLLOUT, 0.5),
        ("dqn", "CartPole-v1", REPLAY, 0.5),
        ("sac", "Pendulum-v1", REPLAY, 0.5),
        ("crossq", "Pendulum-v1", REPLAY, 0.5),
        ("grpo", "tokens-sort", {**TOKENS, "group_size": 4, "imitation_steps": 0}, 0.5),
    ],
)
def test_an_iteration_lowers_for_cuda(algo, env, config, megabytes):
    if env.startswith("tokens-"):
        learner = TOKEN_ALGORITHMS[algo]
        world = envs.make(env)
    else:
        learner = ALGORITHMS[algo]
        world = envs.make(env, **({"backend": "mjx"} if env == "walker" else {}))
    learner = learner(learner.Config(**config), world)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    text = jax.jit(learner.step).trace(state).lower(lowering_platforms=("cuda",)).as_text()
    calls = set(re.findall(r"custom_call @([\w.]+)", text))
    assert calls <= KNOWN_CALLS, calls - KNOWN_CALLS
    assert "f64" not in text
    assert len(text) < megabytes * MEGABYTE, len(text) / MEGABYTE
