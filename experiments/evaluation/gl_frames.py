"""Renders states with MuJoCo's own renderer, in a process of its own: a GL driver may hang, crash, or be a slow one.

Run as a script by `video.py`: model (.mjb), qpos (.npy), output (.npy), width, height, seconds allowed a frame.
Exits with 0 only if every frame was rendered.
"""

import os
import sys
import time

import mujoco
import numpy as np

TRIAL = 5  # frames by which the speed is judged


def main() -> None:
    model_file, qpos_file, out_file = sys.argv[1:4]
    width, height, limit = int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
    model = mujoco.MjModel.from_binary_path(model_file)
    data = mujoco.MjData(model)
    renderer = mujoco.Renderer(model, height, width)
    frames = []
    for i, qpos in enumerate(np.load(qpos_file)):
        if i == 1:
            start = time.monotonic()  # the first frame sets things up
        if i == TRIAL and time.monotonic() - start > limit * (TRIAL - 1):
            print("too slow", file=sys.stderr)
            os._exit(3)
        data.qpos[:] = qpos
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera=0 if model.ncam else -1)
        frames.append(renderer.render().copy())
    np.save(out_file, np.stack(frames))
    os._exit(0)  # some drivers stumble over their own end


if __name__ == "__main__":
    main()
