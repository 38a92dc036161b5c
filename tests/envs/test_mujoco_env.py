"""Tasks as users write them."""

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import pytest

from envs.base import static
from envs.mujoco_env import MujocoEnv, load_file
from tests.envs.physics.feature_models import arm


@flax.struct.dataclass
class Arm(MujocoEnv):
    file: str = static("")
    substeps = 4

    def load_model(self):
        return load_file(self.file)

    def initial(self, key):
        return self.at_rest(jnp.zeros(self.model.nq))

    def observation(self, state):
        return state.qpos

    def reward(self, state, action, next_state):
        return -jnp.abs(next_state.qpos[0])

    def terminal(self, state):
        return jnp.zeros((), bool)


def make(tmp_path, xml, backend="native"):
    path = tmp_path / "arm.xml"
    path.write_text(xml)
    return Arm(file=path, backend=backend)


def test_passive_forces(tmp_path):
    """A weight that is compensated stays where it is, also where the file disables dampers and has no springs."""
    xml = arm(body='gravcomp="1"', flag='damper="disable"').replace(
        '<body name="lower"', '<body name="lower" gravcomp="1"'
    )
    env = make(tmp_path, xml)
    state, step = env.initial(jax.random.key(0)), jax.jit(env.transition)
    for _ in range(50):
        state = step(state, jnp.zeros(1), jax.random.key(0))
    assert jnp.abs(state.qpos).max() < 1e-6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["native", "mjx"])
def test_actuator_delay(tmp_path, backend):
    xml = arm(actuator='<motor joint="shoulder" delay="0.03" nsample="8" ctrlrange="-1 1"/>')
    with pytest.raises(ValueError, match=f"the {backend} backend does not step .* delayed"):
        make(tmp_path, xml, backend)


def test_a_model_without_actuators(tmp_path):
    with pytest.raises(ValueError, match="Arm's model has no actuators"):
        make(tmp_path, arm(actuator=""))

    @flax.struct.dataclass
    class Pushed(Arm):
        """Acts by itself."""

        @property
        def action_space(self):
            return None

    assert Pushed(file=tmp_path / "arm.xml").model.nu == 0


def test_controls_of_a_ball_joint_are_three_numbers(tmp_path):
    """Of one actuator: in MuJoCo it has three controls."""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='j' type='ball'/><geom size='.1'/></body></worldbody>"
        "<actuator><orientation joint='j' kp='1'/></actuator></mujoco>"
    )
    mujoco.mj_saveLastXML(str(tmp_path / "ball.xml"), model)
    env = Arm(file=tmp_path / "ball.xml")
    assert env.action_space.shape == (env.model.nu,) == (3,)
