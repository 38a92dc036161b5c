"""Action distributions: frozen pytrees with sample, log_prob, entropy, kl, mode.

Leading axes are batch axes. For the two continuous distributions the last axis is the event (A
independent coordinates), over which log_prob, entropy and kl are summed.

Fields are `Array | Any` because JAX itself rebuilds pytrees with placeholders for leaves (tree.map,
vmap's in_axes), which a run-time type checker must let pass.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Categorical:
    """Over the integers 0 .. A-1, from unnormalised log-probabilities.

    A logit may be -inf (an action that is not allowed), as long as one is finite.
    """

    logits: Array | Any  # [..., A]

    def sample(self, key: PRNGKeyArray) -> Int[Array, "..."]:
        """Returns a sample."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, x: Int[Array, "..."]) -> Float[Array, "..."]:
        """Returns the log-probability (density) of x."""
        log_p = jax.nn.log_softmax(self.logits)
        return jnp.take_along_axis(log_p, x[..., None], axis=-1).squeeze(-1)

    def entropy(self) -> Float[Array, "..."]:
        """-sum_a p log p, with 0 log 0 = 0."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        return -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1)

    def kl(self, other: "Categorical") -> Float[Array, "..."]:
        """KL(self || other) = sum_a p (log p - log q)."""
        log_p = jax.nn.log_softmax(self.logits)
        log_q = jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        # Two selections: -inf - -inf is NaN, and would come back through the gradient.
        log_p, log_q = (jnp.where(p > 0, log, 0.0) for log in (log_p, log_q))
        return jnp.sum(p * (log_p - log_q), axis=-1)

    def mode(self) -> Int[Array, "..."]:
        """Returns the most likely value."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normal:
    """Diagonal Gaussian. `log_std` broadcasts against `mean`: one [A] for all states is fine."""

    mean: Array | Any  # [..., A]
    log_std: Array | Any  # [..., A] or [A]

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... A"]:
        """Returns a sample."""
        return self.at(jax.random.normal(key, self._shape(), self.mean.dtype))

    def at(self, noise: Float[Array, "... A"]) -> Float[Array, "... A"]:
        """The sample that standard normal `noise` makes."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """Returns the log-probability (density) of x."""
        z = (x - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(z) - self.log_std - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """sum_i log(std_i) + log(2 pi e) / 2."""
        log_std = jnp.broadcast_to(self.log_std, self._shape())
        return jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: "Normal") -> Float[Array, "..."]:
        """KL(self || other) = sum_i (v - 1 - log v + ((m - m') / s')^2) / 2, v = (s / s')^2."""
        log_v = 2 * (self.log_std - other.log_std)
        z = (self.mean - other.mean) * jnp.exp(-other.log_std)
        # expm1: v - 1 - log v is tiny for nearly equal distributions, where it matters most.
        return 0.5 * jnp.sum(jnp.expm1(log_v) - log_v + jnp.square(z), axis=-1)

    def mode(self) -> Float[Array, "... A"]:
        """Returns the most likely value."""
        return jnp.broadcast_to(self.mean, self._shape())

    def _shape(self):
        return jnp.broadcast_shapes(self.mean.shape, self.log_std.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TanhNormal:
    """tanh of a diagonal Gaussian: actions in (-1, 1).

    Haarnoja et al. 2018, appendix C. https://arxiv.org/abs/1801.01290
    """

    mean: Array | Any  # [..., A], before the tanh
    log_std: Array | Any  # [..., A] or [A], before the tanh

    def sample(self, key: PRNGKeyArray) -> Float[Array, "... A"]:
        """Returns a sample."""
        return jnp.tanh(self._normal().sample(key))

    def at(self, noise: Float[Array, "... A"]) -> Float[Array, "... A"]:
        """The sample that standard normal `noise` makes."""
        return jnp.tanh(self._normal().at(noise))

    def sample_and_log_prob(
        self, key: PRNGKeyArray
    ) -> tuple[Float[Array, "... A"], Float[Array, "..."]]:
        """A sample and its log-density, from the value before the tanh: exact if saturated too."""
        x = self._normal().sample(key)
        return jnp.tanh(x), self._log_prob_before_tanh(x)

    def log_prob(self, x: Float[Array, "... A"]) -> Float[Array, "..."]:
        """Log-density of the action x, |x| clamped just below 1, where the inverse is infinite.

        Inverting a saturated tanh loses precision: prefer `sample_and_log_prob` for own samples.
        """
        limit = 1.0 - jnp.finfo(x.dtype).eps
        return self._log_prob_before_tanh(jnp.arctanh(jnp.clip(x, -limit, limit)))

    def entropy(self) -> Float[Array, "..."]:
        """Raises NotImplementedError: there is no closed form."""
        raise NotImplementedError(
            "the entropy of TanhNormal has no closed form; "
            "estimate it by -log_prob of samples (sample_and_log_prob)"
        )

    def kl(self, other: "TanhNormal") -> Float[Array, "..."]:
        """KL(self || other): that of the Gaussians, since tanh is one-to-one."""
        return self._normal().kl(other._normal())

    def mode(self) -> Float[Array, "... A"]:
        """tanh of the Gaussian's mode: the median, as SAC acts, not the density's peak."""
        return jnp.tanh(self._normal().mode())

    def _normal(self):
        return Normal(self.mean, self.log_std)

    def _log_prob_before_tanh(self, x):
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x)), which does not underflow. From
        # https://github.com/tensorflow/probability/blob/main/tensorflow_probability/python/bijectors/tanh.py
        log_slope = 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))
        return self._normal().log_prob(x) - jnp.sum(log_slope, axis=-1)


def repeated(distribution: Any, shape: tuple[int, ...]) -> Any:
    """Returns the distribution with the leading axes `shape` in every parameter: shared ones are repeated."""
    return jax.tree.map(
        lambda x: x if x.shape[: len(shape)] == shape else jnp.broadcast_to(x, (*shape, *x.shape)),
        distribution,
    )
