"""A token task of one's own: python -m experiments.tokens --task docs/examples/own_task.py:Largest --algo grpo"""

import dataclasses

import jax
import jax.numpy as jnp

from envs.tokens.task import EOS, FIRST, SPECIAL, Task, Verdict, judge_exact


@dataclasses.dataclass(frozen=True)
class Largest(Task):
    """The largest of some digits."""

    digits: int = 6
    """how many digits a prompt has"""

    @property
    def vocabulary(self):
        return (*SPECIAL, *"0123456789", "=")

    @property
    def prompt_length(self):
        return self.digits + 1

    @property
    def response_length(self):
        return 2  # a digit, and the end

    def sample(self, key):
        digits = jax.random.randint(key, (self.digits,), FIRST, FIRST + 10, jnp.int32)
        return jnp.append(digits, FIRST + 10).astype(jnp.int32)

    def canonical(self, prompt):
        return jnp.sort(prompt)  # the order of the digits makes no other question

    def solution(self, prompt):
        return jnp.stack([jnp.max(prompt[:-1]), EOS]).astype(jnp.int32)

    def verify(self, prompt, response, length) -> Verdict:
        digit = (response[0] >= FIRST) & (response[0] < FIRST + 10)
        well_formed = digit & (response[1] == EOS) & (length == 2)
        return judge_exact(self.solution(prompt), response, length, well_formed)


def train(iterations: int = 20):
    """Trains GRPO on the task; returns the share of right answers of each iteration."""
    from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
    from envs.tokens import make_tokens

    env = make_tokens(Largest())
    config = TokenGRPOConfig(
        total_steps=iterations * 128 * env.response_length,
        num_responses=128,
        num_minibatches=2,
        imitation_steps=20,
        layers=1,
        width=32,
        mlp_width=64,
    )
    algo = TokenGRPO(config, env)
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    return run(state)[1]["train/correct"]


if __name__ == "__main__":
    correct = train()
    print(f"right: {correct[0]:.0%} at first, {correct[-1]:.0%} in the end")
