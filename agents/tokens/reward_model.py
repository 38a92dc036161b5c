"""Learned rewards of token tasks: a transformer with a scalar head, on pairs or on the verifier's judgement of steps.

    model = RewardModel(config, env.vocabulary_size, env.pad)
    state = model.start(key, num_pairs)
    state, metrics = model.step(state, pairs, labels)      # again and again
    params = model.calibrate(state.params, prompts, responses, lengths)
    Reward(model.score, params)                            # what token learners take

Bradley-Terry: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155; process: Lightman et al. 2023,
https://arxiv.org/abs/2305.20050
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents import optimisers, schedules
from agents.batch import random_order
from agents.core.preference_losses import bradley_terry_loss
from agents.core.reward_scores import (
    StepAggregation,
    last_token_score,
    standardised_score,
    step_loss,
    step_score,
)
from agents.settings import Settings, require
from agents.tokens.pairs import Pairs
from agents.tokens.preference import weighted_mean
from agents.tokens.rollout import Params, padded_sequences, solution_lengths
from agents.tokens.transformer import TransformerConfig, scalar_model

MOST = 10.0  # of a standardised score, either way
_WARMUP = 0.05  # share of the steps in which the step size rises


@dataclasses.dataclass(frozen=True)
class RewardModelConfig(Settings):
    """Settings of `RewardModel`. Raises ValueError, in one line, for impossible values."""

    kind: Literal["bradley-terry", "process"] = "bradley-terry"
    """bradley-terry: learns which response of a pair is chosen; process: learns whether each step is correct, by the
    task's verifier"""
    aggregate: StepAggregation = "min"
    """aggregation of step probabilities into the score of a response (process)"""
    num_pairs: int = 4096
    """pairs in the data set"""
    step_pairs: int = 64
    """pairs per gradient step"""
    num_epochs: int = 4
    """epochs over the pairs; more epochs overfit"""
    learning_rate: float = 1e-3
    """initial learning rate of Adam; falls linearly to zero"""
    max_grad_norm: float | None = 1.0
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    from_policy: bool = True
    """initialise with the layers of the policy that generated the samples, if the sizes agree; else randomly"""
    centre: float = 0.01
    """weight of the squared sum of a pair's scores, which keeps scores near zero (bradley-terry)"""
    label_temperature: float = 0.0
    """temperature of the Bradley-Terry model that draws labels from gold scores; 0: the higher score is chosen"""
    label_flips: float = 0.0
    """probability that a label is flipped"""
    layers: int = 2
    """blocks of the transformer"""
    width: int = 64
    """embedding dimension"""
    heads: int = 8
    """attention heads"""
    kv_heads: int = 8
    """key and value heads, each shared by a group of attention heads (grouped-query attention)"""
    mlp_width: int = 192
    """units of each block's SwiGLU"""
    rope_base: float = 100.0
    """base of the wavelengths of rotary position embeddings"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of activations; parameters are float32"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("num_pairs", "step_pairs", "num_epochs")
        self.require_positive("learning_rate", "max_grad_norm")
        self.require_not_negative("centre", "label_temperature")
        require(
            0 <= self.label_flips < 0.5,
            f"label_flips must be at least 0 and below 0.5, got {self.label_flips}",
        )
        self.transformer(1)

    def transformer(self, vocabulary: int) -> TransformerConfig:
        """Returns the configuration of the transformer over `vocabulary` tokens."""
        names = ("layers", "width", "heads", "kv_heads", "mlp_width", "rope_base", "dtype")
        return TransformerConfig(vocabulary, **{name: getattr(self, name) for name in names})


class RewardParams(NamedTuple):
    """A calibrated model: scores have mean 0 and deviation 1 over the initial policy's samples."""

    model: Params
    mean: Array  # float32 []
    std: Array  # float32 []


class StepLabels(NamedTuple):
    """The verifier's judgement of 2N responses' steps; a step is named by its last token."""

    right: Array  # [2N, R] bool
    ends: Array  # [2N, R] bool: a step ends here


@flax.struct.dataclass
class RewardState:
    """The state of training. Leaves are `| Any` for the placeholders with which JAX rebuilds pytrees."""

    params: Params
    opt_state: Any
    key: PRNGKeyArray | Any  # of the epochs' orders
    steps: Array | Any  # int32 [], gradient steps taken


class RewardModel:
    """A transformer whose scalar head scores a response at its last token, or each of its steps.

    Args:
      vocabulary: number of tokens.
      pad: fills prompts on the left; where a response ends its length says, never a token's id.
      every_token: each token is a step (process); else the whole response is one.
    """

    def __init__(
        self, config: RewardModelConfig, vocabulary: int, pad: int, every_token: bool = True
    ):
        self.config = config
        self.pad = pad
        self.every_token = every_token
        self.network = scalar_model(config.transformer(vocabulary))
        self.optimizer = optimisers.clipped(optax.scale_by_adam(b2=0.99), config.max_grad_norm)

    def start(self, key: PRNGKeyArray, layers: Params | None = None) -> RewardState:
        """Returns the first state; every score is 0, for the head is.

        Args:
          layers: parameters of a policy's transformer, which the model begins with where shapes agree (the head's do
            not); None: all are random.
        """
        params_key, key = jax.random.split(key)
        params = self.network.init(params_key)
        if layers is not None:
            paths = jax.tree_util.tree_flatten_with_path(layers)[0]
            given = {jax.tree_util.keystr(path): x for path, x in paths}

            def take(path: Any, own: Array) -> Array:
                x = given.get(jax.tree_util.keystr(path), own)
                return jnp.copy(x) if x.shape == own.shape else own

            params = jax.tree_util.tree_map_with_path(take, params)
        return RewardState(params, self.optimizer.init(params), key, jnp.zeros((), jnp.int32))

    def token_scores(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, "N R"]:
        """Returns the head's number at each token of the responses; meaningless after their end."""
        tokens, positions = padded_sequences(prompts, responses, lengths, self.pad)
        model = self.network.module(params)
        return model.logits(model.hidden(tokens, positions, prompts.shape[1]))[..., 0]

    def raw_score(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, " N"]:
        """Returns the score of each response before it is standardised."""
        scores = self.token_scores(params, prompts, responses, lengths)
        written = jnp.arange(responses.shape[1]) < lengths[:, None]
        if self.config.kind == "bradley-terry":
            return last_token_score(scores.T, written.T)
        ends = step_ends(lengths, responses.shape[1], self.every_token)
        return step_score(jax.nn.sigmoid(scores).T, ends.T, self.config.aggregate)

    def score(
        self,
        params: RewardParams,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> Float[Array, " N"]:
        """Returns the standardised score of each response, within +-10: the `Score` of a `Reward`."""
        raw = self.raw_score(params.model, prompts, responses, lengths)
        return standardised_score(raw, params.mean, params.std, MOST)

    def calibrate(
        self,
        params: Params,
        prompts: Int[Array, "N P"],
        responses: Int[Array, "N R"],
        lengths: Int[Array, " N"],
    ) -> RewardParams:
        """Returns the parameters with mean and deviation of the scores of these samples of the initial policy."""
        raw = self.raw_score(params, prompts, responses, lengths)
        return RewardParams(params, jnp.mean(raw), jnp.std(raw))

    def loss(
        self, params: Params, pairs: Pairs, labels: StepLabels | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the loss and the accuracy: of pairs, or of steps (`labels`, of the chosen responses, then the rest).

        Pairs of weight 0 count in neither; their steps do, for they are judged each by itself.
        """
        rows = pairs.prompts_twice, pairs.responses, pairs.lengths
        if self.config.kind == "process":
            assert labels is not None
            logits = self.token_scores(params, *rows)
            count = jnp.maximum(jnp.sum(labels.ends), 1)
            losses = jnp.where(labels.ends, step_loss(logits, labels.right), 0.0)
            agrees = labels.ends & ((logits > 0) == labels.right)
            return jnp.sum(losses) / count, jnp.sum(agrees) / count
        chosen, rejected = jnp.split(self.raw_score(params, *rows), 2)
        margin = 0.0 if pairs.margin is None else pairs.margin
        losses = bradley_terry_loss(chosen, rejected, margin, self.config.centre)
        agrees = (chosen > rejected).astype(jnp.float32)
        return weighted_mean(losses, pairs.weight), weighted_mean(agrees, pairs.weight)

    def total_steps(self, num_pairs: int) -> int:
        """Returns the number of gradient steps of training on this number of pairs.

        Raises ValueError if there are fewer pairs than one step needs.
        """
        steps = num_pairs // self.config.step_pairs
        require(
            steps >= 1,
            f"there are {num_pairs} pairs, and step_pairs = {self.config.step_pairs}: lower step_pairs",
        )
        return steps * self.config.num_epochs

    def step(
        self, state: RewardState, pairs: Pairs, labels: StepLabels | None = None
    ) -> tuple[RewardState, dict[str, Array]]:
        """Returns the state after one gradient step on the pairs that are due, and its metrics.

        Args:
          pairs: the whole set; each epoch deals it in a new order.
          labels: of the steps of its responses (process).
        """
        n, size = pairs.prompts.shape[0], self.config.step_pairs
        epoch, place = jnp.divmod(state.steps, n // size)
        order = random_order(jax.random.fold_in(state.key, epoch), n)
        index = jax.lax.dynamic_slice_in_dim(order, place * size, size)
        part = jax.tree.map(lambda x: x[index], pairs)
        if labels is not None:
            both = jnp.concatenate([index, index + n])
            labels = jax.tree.map(lambda x: x[both], labels)
        (loss, accuracy), grads = jax.value_and_grad(self.loss, has_aux=True)(
            state.params, part, labels
        )
        total = self.total_steps(n)
        left = schedules.remaining_fraction(state.steps, total)
        rise = jnp.minimum((state.steps + 1) / max(_WARMUP * total, 1.0), 1.0)
        rate = self.config.learning_rate * left * rise
        params, opt_state = optimisers.descend(
            state.params, state.opt_state, grads, self.optimizer, rate
        )
        state = dataclasses.replace(
            state, params=params, opt_state=opt_state, steps=state.steps + 1
        )
        return state, {"loss": loss, "accuracy": accuracy, "grad_norm": optax.tree.norm(grads)}


def step_ends(lengths: Int[Array, " N"], size: int, every_token: bool) -> Bool[Array, "N R"]:
    """Returns True at the last token of each step: at every token of a response, or at its last one."""
    place, last = jnp.arange(size), lengths[:, None] - 1
    return place <= last if every_token else place == last


def step_labels(
    env: Any,
    prompts: Int[Array, "N P"],
    responses: Int[Array, "N R"],
    lengths: Int[Array, " N"],
    every_token: bool,
) -> StepLabels:
    """Returns the exact judgement of the task's verifier: a token is right that earns credit.

    Args:
      env: a `TokenTask` whose reward is the credit of each token (process).
      every_token: see `gives_step_credit`; else the response is one step, right if it is correct.
    """
    credit, correct = env.score(prompts, responses, lengths)
    ends = step_ends(lengths, responses.shape[1], every_token)
    return StepLabels(ends & (credit > 0 if every_token else correct[:, None]), ends)


def gives_step_credit(env: Any) -> bool:
    """Returns True where each token of an expert's response earns credit, by the process reward of `env`."""
    if not env.has_solutions:
        return False
    prompts = env.prompts(jax.random.key(0), 1)
    solution = env.solutions(prompts)
    length = solution_lengths(solution, env.stop)
    return bool(jnp.sum(env.score(prompts, solution, length)[0] > 0) == length[0])
