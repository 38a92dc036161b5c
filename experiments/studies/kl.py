"""Estimates of the KL divergence, and importance sampling: bias and variance, exactly. See `agents/core/kl.py`.

Over a vocabulary small enough to sum up, every expectation is a sum: nothing here is sampled but the policies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agents.core import kl
from agents.core.policy_losses import importance_ratio
from experiments.figures.canvas import BLUE, GOLD, GREY, RED
from experiments.studies import figures

TITLE = "KL estimates and importance sampling"
_ESTIMATES: dict[str, Callable[..., Array]] = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}
_COLORS = {"k1": GOLD, "k2": BLUE, "k3": RED}
_CLIP = 0.2


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the study and returns its numbers. `quick`: small, to test the code; `say` prints a line of progress."""
    tokens, pairs, points = (16, 4, 4) if quick else (64, 200, 12)
    shifts = np.geomspace(0.05, 2.0, points)
    say(f"{pairs} pairs of policies over {tokens} tokens at {points} distances")
    keys = jax.random.split(jax.random.key(0), pairs)
    measure = jax.jit(jax.vmap(_measure, in_axes=(0, None, None)), static_argnums=2)
    at_shift = [jax.tree.map(lambda x: x.mean(0), measure(keys, s, tokens)) for s in shifts]
    return {
        "tokens": tokens,
        "pairs": pairs,
        **jax.tree.map(lambda *x: np.stack(x), *at_shift),
    }


def draw(numbers: dict[str, Any], path: Path) -> None:
    """Draws the study's figure at `path`."""
    figure = figures.empty(13.5, 4.2)
    left, middle, right = figure.subplots(1, 3)
    for name, color in _COLORS.items():
        estimates = numbers["estimates"][name]
        left.plot(
            numbers["kl"], estimates["std"], color=color, linewidth=1.5, label=f"{name}, spread"
        )
        left.plot(numbers["kl"], np.abs(estimates["bias"]), "--", color=color, linewidth=1.1)
        middle.plot(numbers["kl"], estimates["gradient"], color=color, linewidth=1.5, label=name)
    left.plot([], [], "--", color=GREY, label="bias (k1, k3: none)")
    for name, label, color in (
        ("ratio", "ratio", BLUE),
        ("clipped", f"clipped at 1 ± {_CLIP}", RED),
    ):
        estimates = numbers["importance"][name]
        right.plot(
            numbers["kl"], estimates["std"], color=color, linewidth=1.5, label=f"{label}, spread"
        )
        right.plot(
            numbers["kl"],
            estimates["bias"],
            "--",
            color=color,
            linewidth=1.1,
            label=f"{label}, bias",
        )
    figures.panel(left, "One sample's estimate", "KL(π ‖ ref), nats", "nats")
    figures.panel(
        middle,
        "As a loss: error of the mean gradient",
        "KL(π ‖ ref), nats",
        "relative to the KL's own",
    )
    figures.panel(right, "Importance sampling of E[f]", "KL(π ‖ old), nats", "f has variance 1")
    for ax in (left, middle, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.legend(frameon=False, fontsize=8.5)
    left.set_yscale("log")
    left.set_ylim(bottom=1e-4)
    figures.save(figure, path)


def words(numbers: dict[str, Any]) -> list[str]:
    """Returns the study's lines on the page."""
    at = int(np.argmin(np.abs(np.log(np.array(numbers["kl"]) / 0.1))))
    distance = numbers["kl"][at]
    of = {name: numbers["estimates"][name] for name in _ESTIMATES}
    ratio, clipped = (numbers["importance"][name] for name in ("ratio", "clipped"))
    spreads = ", ".join(f"{name} {x['std'][at]:.2g}" for name, x in of.items())
    errors = ", ".join(f"{name} {x['gradient'][at]:.0%}" for name, x in of.items())
    return [
        f"Means over {numbers['pairs']} random pairs of policies over {numbers['tokens']} tokens. At a KL of "
        f"{distance:.2g} nats, the standard deviation of one sample's estimate is {spreads}, and the bias of k2 is "
        f"{of['k2']['bias'][at]:+.2g}; k1 and k3 are unbiased.",
        "",
        "For a loss, the expected gradient through the log-probability matters. Its relative error is "
        f"{errors}. The expected gradient of k1 is 0, so k1 belongs in the reward and is refused in a loss; that of k2 "
        "is exact; that of k3 is the gradient of KL(ref, policy), which is close to it for similar policies. "
        "Schulman 2020, http://joschu.net/blog/kl-approx.html",
        "",
        "Importance sampling reuses data of an old policy. The ratio makes the estimate unbiased, with a standard "
        f"deviation that grows with the KL ({ratio['std'][0]:.2g} to {ratio['std'][-1]:.2g} here). Clipping bounds it "
        f"({clipped['std'][-1]:.2g}) at the price of bias ({clipped['bias'][-1]:.2g}). PPO and GRPO clip, and keep the "
        "KL small.",
    ]


def _measure(key: Array, shift: Array, tokens: int) -> dict[str, Any]:
    """Returns the figure's numbers for one pair of policies, `shift` apart in logits."""
    ref_key, shift_key, value_key = jax.random.split(key, 3)
    ref_logits = 1.5 * jax.random.normal(ref_key, (tokens,))
    logits = ref_logits + shift * jax.random.normal(shift_key, (tokens,))
    ref_logp, logp = jax.nn.log_softmax(ref_logits), jax.nn.log_softmax(logits)
    exact_gradient = jax.grad(lambda x: _kl(jax.nn.log_softmax(x), ref_logp))(logits)

    def of(estimate: Callable[..., Array]) -> dict[str, Array]:
        def loss(x: Array) -> Array:
            # Samples are data: their probabilities are not differentiated.
            return jnp.sum(jnp.exp(logp) * estimate(jax.nn.log_softmax(x), ref_logp))

        mean, std = moments(estimate(logp, ref_logp), jnp.exp(logp))
        error = jnp.linalg.norm(jax.grad(loss)(logits) - exact_gradient)
        return {
            "bias": mean - _kl(logp, ref_logp),
            "std": std,
            "gradient": error / jnp.linalg.norm(exact_gradient),
        }

    # f: any function of the token, of mean 0 and variance 1 under the policy that it is wanted for.
    f = jax.random.normal(value_key, (tokens,))
    mean, std = moments(f, jnp.exp(logp))
    f = (f - mean) / std
    ratio = importance_ratio(logp, ref_logp)
    weights = {"ratio": ratio, "clipped": jnp.clip(ratio, 1 - _CLIP, 1 + _CLIP)}
    importance = {name: moments(w * f, jnp.exp(ref_logp)) for name, w in weights.items()}
    return {
        "kl": _kl(logp, ref_logp),
        "estimates": {name: of(estimate) for name, estimate in _ESTIMATES.items()},
        "importance": {
            name: {"bias": jnp.abs(mean), "std": std} for name, (mean, std) in importance.items()
        },
    }


def moments(
    x: Float[Array, " tokens"], probability: Float[Array, " tokens"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns mean and standard deviation of x under a distribution."""
    mean = jnp.sum(probability * x)
    return mean, jnp.sqrt(jnp.sum(probability * jnp.square(x - mean)))


def _kl(logp: Array, ref_logp: Array) -> Array:
    return jnp.sum(jnp.exp(logp) * (logp - ref_logp))
