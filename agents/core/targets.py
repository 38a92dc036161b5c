"""Target networks: parameters that follow the learned ones slowly."""

from typing import Any

import jax
from jaxtyping import ScalarLike


def soft_update(target: Any, online: Any, tau: ScalarLike) -> Any:
    """(1 - tau) target + tau online, leaf by leaf (trees of float arrays): Polyak averaging.

    tau 1 gives exactly `online` and 0 exactly `target`, as long as both are finite; so a copy every
    C steps (Mnih et al. 2015, https://doi.org/10.1038/nature14236) is
    `soft_update(target, online, jnp.where(step % C == 0, 1.0, 0.0))`, without a branch.
    Lillicrap et al. 2016, algorithm 1. https://arxiv.org/abs/1509.02971
    """
    return jax.tree.map(lambda t, o: ((1.0 - tau) * t + tau * o).astype(t.dtype), target, online)
