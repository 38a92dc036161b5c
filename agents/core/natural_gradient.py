"""The natural gradient: a direction, a step size, a line search. What TRPO is made of.

To second order the mean KL between the policies of params and params + s is s^T F s / 2, with F the Fisher matrix.
The steepest ascent of a surrogate with gradient g, within KL <= max_kl, is then

    s = beta x,    F x = g,    beta = sqrt(2 max_kl / x^T F x)

Schulman et al. 2015, "Trust Region Policy Optimization", appendix C. https://arxiv.org/abs/1502.05477

Vectors are pytrees with the structure of the parameters. All loops run a fixed number of times, whatever the data, so
that `vmap` over seeds costs what it should and each seed gets what it would get alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

Params = Any  # a pytree of float arrays


class LineSearch(NamedTuple):
    """The result of a backtracking line search."""

    params: Params
    fraction: Array  # [] of the step that was taken, shrink^k; 0 if none was
    success: Array  # [] bool


def fisher_vector_product(
    kl: Callable[[Params], Float[Array, ""]], params: Params, damping: ScalarLike = 0.0
) -> Callable[[Params], Params]:
    """The function v -> (F + damping I) v, F the Hessian of `kl` at `params`.

    Args:
      kl: params to the mean of KL(pi_old || pi) over the states, with pi_old the policy of `params` itself and held
        fixed; only there, where the KL is least, is its Hessian the Fisher matrix E[grad log pi grad log pi^T].

    Forward-mode over reverse-mode: `grad(kl)` is linearised once and each product is a pass through that.
    """
    _, hessian = jax.linearize(jax.grad(kl), params)

    def product(vector: Params) -> Params:
        return jax.tree.map(lambda h, v: h + damping * v, hessian(vector), vector)

    return product


def conjugate_gradient(
    product: Callable[[Params], Params],
    b: Params,
    iterations: int = 10,
    tolerance: ScalarLike = 1e-5,
) -> tuple[Params, Params]:
    """Solves A x = b for a symmetric positive definite A, given as `product`: v -> A v.

    After `iterations` products, of which those past |residual| <= tolerance |b| change nothing, nor those after
    rounding has made a direction's curvature p^T A p not positive. Hestenes & Stiefel 1952; Nocedal & Wright 2006,
    algorithm 5.2. https://doi.org/10.6028/jres.049.044

    Returns:
      x and the residual b - A x, as the recursion keeps it.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    enough = jnp.square(tolerance) * _dot(b, b)

    def body(_, carry):
        x, residual, direction, square, going = carry
        image = product(direction)
        curvature = _dot(direction, image)
        going = going & (square > enough) & (curvature > 0)
        length = square / curvature
        new_residual = _add(residual, -length, image)
        new_square = _dot(new_residual, new_residual)
        new = (
            _add(x, length, direction),
            new_residual,
            _add(new_residual, new_square / square, direction),
            new_square,
        )
        # Selected: once stopped, the quotients above may be 0 / 0.
        return *_where(going, new, (x, residual, direction, square)), going

    start = (jax.tree.map(jnp.zeros_like, b), b, b, _dot(b, b), jnp.array(True))
    x, residual, *_ = jax.lax.fori_loop(0, iterations, body, start)
    return x, residual


def natural_step_size(x: Params, product_x: Params, max_kl: ScalarLike) -> Float[Array, ""]:
    """beta = sqrt(2 max_kl / x^T F x), the length at which the quadratic model of the KL reaches `max_kl`.

    0 where x^T F x is not positive: then there is no direction (a zero gradient). Schulman et al. 2015, appendix C.
    https://arxiv.org/abs/1502.05477

    Args:
      product_x: F x. With the damped product the step is the shorter one, on the safe side.
    """
    curvature = _dot(x, product_x)
    usable = curvature > 0
    return jnp.where(usable, jnp.sqrt(2.0 * max_kl / jnp.where(usable, curvature, 1.0)), 0.0)


def backtracking_line_search(
    evaluate: Callable[[Params], tuple[Float[Array, ""], Float[Array, ""]]],
    params: Params,
    step: Params,
    max_kl: ScalarLike,
    trials: int = 10,
    shrink: float = 0.5,
) -> LineSearch:
    """Returns params + fraction step, for the largest acceptable fraction among 1, shrink, shrink^2, ... (`trials` of
    them).

    A fraction is acceptable if the loss is lower than at `params`, the KL is at most `max_kl`, and both are finite.
    Without an acceptable fraction, returns `params`. Schulman et al. 2015, appendix C. https://arxiv.org/abs/1502.05477

    Args:
      evaluate: params to (loss, KL(pi_old || pi)), where the loss is minus the surrogate. Called trials + 1 times in
        sequence: a batch of trials would need `trials` times the memory.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if not 0 < shrink < 1:
        raise ValueError(f"shrink must be between 0 and 1, got {shrink}")
    old_loss, _ = evaluate(params)

    def body(_, carry):
        candidate, accepted, success = carry
        loss, kl = evaluate(_add(params, candidate, step))
        acceptable = (loss < old_loss) & (kl <= max_kl)
        accepted = jnp.where(acceptable & ~success, candidate, accepted)
        return candidate * shrink, accepted, success | acceptable

    start = (jnp.ones_like(old_loss), jnp.zeros_like(old_loss), jnp.array(False))
    _, fraction, success = jax.lax.fori_loop(0, trials, body, start)
    # Selected, for a step that is not finite must leave the parameters alone.
    return LineSearch(_where(success, _add(params, fraction, step), params), fraction, success)


def _dot(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)))


def _add(a, scale, b):
    """a + scale b."""
    return jax.tree.map(lambda x, y: x + scale * y, a, b)


def _where(condition, a, b):
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
