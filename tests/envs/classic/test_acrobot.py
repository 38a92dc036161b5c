import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.classic.acrobot import Acrobot

KEY = jax.random.key(0)
HANGING = jnp.zeros(4)


@functools.partial(jax.jit, static_argnames="torque_noise_max")
def transition(state, action, key=KEY, **options):
    return Acrobot(**options).transition(state, action, key)


def test_hangs_still_without_torque():
    np.testing.assert_array_equal(transition(HANGING, jnp.int32(1)), 0)


def test_torques_are_opposite():
    left, right = (transition(HANGING, jnp.int32(a)) for a in (0, 2))
    np.testing.assert_allclose(left, -right, rtol=1e-6)
    assert float(right[1]) > 0


def test_energy_is_kept_without_torque():
    """Nothing here rubs; what is lost is Runge-Kutta's error."""

    def energy(state):
        angle1, angle2, speed1, speed2 = state
        both = speed1 + speed2
        kinetic = 0.5 * (1.25 * speed1**2 + 1.25 * both**2 + speed1**2)
        kinetic += 0.5 * speed1 * both * math.cos(angle2)
        return kinetic - 9.8 * (1.5 * math.cos(angle1) + 0.5 * math.cos(angle1 + angle2))

    state = jnp.array([0.3, -0.4, 0.2, 0.5])
    first = energy(state)
    for _ in range(20):
        state = transition(state, jnp.int32(1))
    assert abs(energy(state) - first) < 0.02
    assert abs(energy(HANGING) - first) > 0.5  # there was energy to lose


def test_wraps_angles_and_leaves_others_alone():
    turned = transition(jnp.array([3.1, -3.1, 3.0, -3.0]), jnp.int32(1))
    assert (jnp.abs(turned[:2]) <= math.pi).all()
    assert float(turned[0]) < 0 < float(turned[1])
    far = transition(jnp.array([3.1, 3.1, 12.0, 28.0]), jnp.int32(1))
    assert (jnp.abs(far[:2]) <= math.pi).all()


@pytest.mark.parametrize(
    ("angles", "ends"), [((0, 0), False), ((math.pi, 0), True), ((math.pi / 2, math.pi / 2), False)]
)
def test_ends_above_the_line(angles, ends):
    state = jnp.array([*angles, 0.0, 0.0], jnp.float32)
    assert bool(Acrobot().terminal(state)) == ends
    assert float(Acrobot().reward(HANGING, jnp.int32(0), state)) == (0 if ends else -1)


def test_torque_noise_is_uniform_within_its_bounds():
    """From the hanging rest, the second joint's speed answers the torque all but linearly."""
    keys = jax.random.split(KEY, 2000)
    draw = jax.jit(jax.vmap(lambda k: transition(HANGING, jnp.int32(1), k, torque_noise_max=0.5)))
    noisy = draw(keys)
    low, high = (float(transition(HANGING, jnp.float32(a))[3]) for a in (0.5, 1.5))
    position = (np.asarray(noisy)[:, 3] - low) / (high - low)
    assert position.min() == pytest.approx(0, abs=0.01)
    assert position.max() == pytest.approx(1, abs=0.01)
    assert position.mean() == pytest.approx(0.5, abs=0.03)
    assert position.std() == pytest.approx(12**-0.5, abs=0.02)
    silent = transition(HANGING, jnp.int32(2), torque_noise_max=0.0)
    np.testing.assert_array_equal(silent, transition(HANGING, jnp.int32(2)))


def test_the_picture_turns_with_the_first_joint():
    right, left = (
        Acrobot().render(np.array([a, 0, 0, 0], np.float32), 360, 360) for a in (1.0, -1.0)
    )
    right, left = right[50:], left[50:, ::-1]  # below the caption
    middle = slice(120, 360)  # without the label
    assert np.abs(right[middle].astype(int) - left[middle]).mean() < 1.0
    assert np.abs(right[middle].astype(int) - right[middle, ::-1]).mean() > 3.0
