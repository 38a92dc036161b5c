"""Iterations of PPO in which the critic alone learns."""

import jax
import numpy as np

from agents.tokens.ppo import TokenPPO, TokenPPOConfig
from envs.tokens import make_tokens

SMALL = {
    **{"total_steps": 10_000, "num_responses": 16, "imitation_steps": 1, "imitation_responses": 4},
    **{"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 16},
    **{"num_minibatches": 2, "max_grad_norm": None},
}


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_the_policy_waits_for_the_critic():
    """With its optimiser's moments; then it learns as well."""
    env = make_tokens("sort-2", "process")
    algo = TokenPPO(TokenPPOConfig(**SMALL, critic_warmup=2), env)
    step = jax.jit(algo.step)
    first = state = jax.jit(algo.init)(jax.random.key(0))
    for _ in range(2):
        before, (state, _) = state, step(state)
        assert same(state.params["policy"], first.params["policy"])
        assert not same(state.params["critic"], before.params["critic"])
    mean, square = state.opt_state[-1].mu["policy"], state.opt_state[-1].nu["policy"]
    assert all((x == 0).all() for x in jax.tree.leaves((mean, square)))
    assert not same(step(state)[0].params["policy"], first.params["policy"])
