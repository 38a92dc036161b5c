"""A cart swings its pole up and keeps it there."""

import flax.struct
import jax
import jax.numpy as jnp
import mujoco

from envs.base import static
from envs.mujoco_env import MujocoEnv

XML = """
<mujoco>
  <option timestep="0.01"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <geom type="capsule" fromto="-1.2 0 0 1.2 0 0" size="0.02"/>
    <body>
      <joint name="rail" type="slide" axis="1 0 0" limited="true" range="-1 1" damping="0.5"/>
      <geom type="box" size="0.12 0.06 0.06" mass="1" rgba="0.2 0.4 0.7 1"/>
      <body>
        <joint name="pivot" type="hinge" axis="0 1 0" damping="0.002"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.03" mass="0.1" rgba="0.9 0.5 0.2 1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="10" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


@flax.struct.dataclass
class MyRobot(MujocoEnv):
    substeps = 4  # of the model's timestep: an action every 40 ms

    effort_weight: float = 0.01  # cost per squared control
    max_episode_steps: int = static(250)  # ten seconds

    def load_model(self):  # or, in place of it, xml = "my_robot.xml": a file beside this one
        return mujoco.MjModel.from_xml_string(XML)

    def initial(self, key):
        noise = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        hanging = jnp.array([0.0, jnp.pi])  # cart, pole
        return self.at_rest(hanging + noise[:2], noise[2:])

    def observation(self, state):
        (x, angle), speeds = state.qpos, state.qvel
        return jnp.stack([x, jnp.cos(angle), jnp.sin(angle), *speeds])

    def reward(self, state, action, next_state):
        upright = jnp.cos(next_state.qpos[1])
        return upright - self.effort_weight * jnp.sum(action**2)

    def terminal(self, state):
        return jnp.zeros((), bool)  # the time limit is max_episode_steps, not an end
