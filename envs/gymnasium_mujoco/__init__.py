"""Gymnasium's MuJoCo tasks, version 5, with Gymnasium's own model files, on either physics engine.

Observations, rewards, terminations, options and `info` are Gymnasium's (1.4); tests hold them to it step by step.
What differs:

- Numbers are float32 between steps, and the solver starts every control step cold, where Gymnasium starts it from
  the previous step's solution (so that a step is a function of state and action alone).
- `info` is empty after a reset, where Gymnasium's has positions.
- A state that is not finite ends the episode with reward 0 (see `envs.base.advance`).
- `Ant` does not observe contact forces unless `include_cfrc_ext_in_observation=True`; they count in its reward.
- Options about cameras and windows (`default_camera_config`, `render_mode`, `width`, `height`, `camera_id`,
  `camera_name`, `max_geom`, `visual_options`) are not offered; there is `render`.

No option is refused by an engine. On mjx, which computes in float32, results are approximate, and Ant's are those of
slightly different contacts: MJX 3.17 lays the friction pyramid of a capsule that is steeper than 60 degrees along the
world's axes, MuJoCo along the capsule. In about two steps of five Ant's next speeds differ by up to 0.9 (relative to
max(1, speed)), its reward by up to 0.17. Learn and compare on one engine.

Forward speeds are differences of float32 positions: far from the origin they are wrong by up to |x| eps / dt, with
eps = 2^-23. At x = 100 m that is 2.4e-4 m/s in HalfCheetah (dt = 0.05 s) and 1.5e-3 m/s in Hopper and Walker2d
(dt = 0.008 s).

Results published for v2, v3 and v4 compare with care. What v5 changed is in the docstring of each task; all of it is
from Gymnasium's version histories.
"""
