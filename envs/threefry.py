"""JAX's default random generator, as arithmetic that XLA fuses.

JAX draws random numbers on a CPU by a loop of five rounds, so that large arrays compile fast; for the few thousand keys
of a batch of environments that loop costs more than a step of CartPole. Unrolled, it gives the same bits, and the whole
step becomes one fused loop (classic control gains 1.3 to 2.2 times, and compiles no slower).

A program that draws at many places and computes much else compiles faster with the loop: `threefry2x32_in_loop`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(
    key1: UInt32[Array, "..."],
    key2: UInt32[Array, "..."],
    x1: UInt32[Array, "..."],
    x2: UInt32[Array, "..."],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The two words of Threefry-2x32 with 20 rounds, of the counter (x1, x2) under the key (key1, key2). Shapes
    broadcast. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3."""
    keys = (key1, key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA))
    x1, x2 = x1 + keys[0], x2 + keys[1]
    for i in range(5):
        for bits in _ROTATIONS[i % 2]:
            x1 = x1 + x2
            x2 = ((x2 << np.uint32(bits)) | (x2 >> np.uint32(32 - bits))) ^ x1
        x1 = x1 + keys[(i + 1) % 3]
        x2 = x2 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x1, x2


def threefry2x32_in_loop(
    key1: UInt32[Array, "..."],
    key2: UInt32[Array, "..."],
    x1: UInt32[Array, "..."],
    x2: UInt32[Array, "..."],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """`threefry2x32`, four rounds at a time: a fifth of the instructions, and the same bits."""
    key1, key2 = jnp.broadcast_arrays(key1, key2)
    x1, x2 = jnp.broadcast_arrays(x1 + key1, x2 + key2)

    def four_rounds(i, carry):
        x1, x2, keys, rotations = carry
        for bits in rotations[0]:
            x1 = x1 + x2
            x2 = ((x2 << bits) | (x2 >> (np.uint32(32) - bits))) ^ x1
        x1 = x1 + keys[0]
        x2 = x2 + keys[1] + (i + 1).astype(np.uint32)
        return x1, x2, (*keys[1:], keys[0]), rotations[::-1]

    # Rotations are data, or the loop would have two bodies.
    rotations = tuple(tuple(jnp.uint32(bits) for bits in four) for four in _ROTATIONS)
    keys = (key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA), key1)
    carry = (x1, x2, keys, rotations)
    x1, x2, *_ = jax.lax.fori_loop(0, 5, four_rounds, carry)
    return x1, x2
