"""A task in text: python -m experiments.tokens --task docs/examples/own_text_task.py:Backwards --algo grpo"""

import dataclasses

from envs.tokens import TextTask


@dataclasses.dataclass(frozen=True)
class Backwards(TextTask):
    """A word, to be spelled backwards."""

    letters: int = 3
    """letters of a word"""
    prompt_tokens: int = 8
    response_tokens: int = 6

    def question(self, rng):
        return "".join(rng.choice([*"abcdef"], self.letters)) + " ="

    def check(self, question, answer):
        return answer == self.solve(question)

    def solve(self, question):
        return question.split()[0][::-1]


def train(iterations: int = 20):
    """Trains GRPO on the task; returns the share of right answers of each iteration."""
    import jax

    from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
    from envs.tokens import make_tokens

    env = make_tokens(Backwards())
    config = TokenGRPOConfig(
        total_steps=iterations * 128 * env.response_length,
        num_responses=128,
        num_minibatches=2,
        learning_rate=5e-4,
        imitation_steps=60,
        layers=1,
        width=64,
        mlp_width=128,
    )
    algo = TokenGRPO(config, env)
    state = jax.jit(algo.init)(jax.random.key(0))
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: algo.step(s), state, None, iterations))
    return run(state)[1]["train/correct"]


if __name__ == "__main__":
    correct = train()
    print(f"right: {correct[0]:.0%} at first, {correct[-1]:.0%} in the end")
