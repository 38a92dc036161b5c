"""The classic control tasks in pure JAX, each equal to Gymnasium's of the same name (a test compares them in float64).

| module | tasks | state |
|---|---|---|
| cartpole | CartPole-v1 | position, velocity, angle, angular velocity |
| acrobot | Acrobot-v1 | two angles, two angular velocities |
| mountain_car | MountainCar-v0, MountainCarContinuous-v0 | position, velocity |
| pendulum | Pendulum-v1 | angle, angular velocity |

A state is one float array. Arithmetic follows its dtype: float32, or float64 under `jax.enable_x64`.
"""
