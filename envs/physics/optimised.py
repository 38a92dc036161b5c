"""An optimised copy of a model, with bit-identical states.

Contact pairs are precomputed and render-only parts are dropped: geoms that touch nothing, cameras, lights. Such a copy
can only be compiled from the model's file, so the way there goes through the file:

    model ------ digest ------> file, remembered by `load_file`; None: a model made or changed in code
      |                           |
      |                           v
      |                         spec, the file read again; compiled, its digest must be the model's
      |                           |
      +-- list_contact_pairs ---> | pairs added, searches switched off
      |                           | cameras, lights, geoms that touch nothing dropped
      |                           v
      +------ comparison ------ copy; its bodies' inertia must be the model's

Where one of the three checks fails there is no such copy, and the model itself is copied. Both kinds of copy then skip
springs and dry friction where the model has none; `features` says where each saving holds.

The copy takes no notice of what is changed about the model's geoms. So it is nothing to hand out: engines step it, and
return to the model when a field is overridden.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path

import mujoco
import numpy as np

from envs.physics import features
from envs.physics.contact_pairs import MOST_PAIRS, add_pairs, list_contact_pairs

_Switch = mujoco.mjtDisableBit

_files: dict[bytes, Path] = {}  # by the digest of the model that was loaded from it


def digest(model: mujoco.MjModel) -> bytes:
    """SHA-256 of the compiled model."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).digest()


def remember_file(model: mujoco.MjModel, path: Path) -> mujoco.MjModel:
    """The model itself, noting for `optimised_copy` that it was loaded from `path`."""
    _files[digest(model)] = path
    return model


def optimised_copy(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of the model that steps from the same states to the same states, sensors included, in less time. Do not
    read or change its geoms, cameras, lights, springs and dry friction."""
    optimised = without_visuals(model) or copy.copy(model)
    # Searching for springs and friction that are not there: 1 to 2%.
    if features.may_skip_friction_loss(model):
        optimised.opt.disableflags |= int(_Switch.mjDSBL_FRICTIONLOSS)
    if features.may_skip_springs(model):
        optimised.opt.disableflags |= int(_Switch.mjDSBL_SPRING)
    return optimised


def without_visuals(model: mujoco.MjModel) -> mujoco.MjModel | None:
    """The model compiled from its file again, without render-only parts, and with its contact pairs listed unless there
    are more than MOST_PAIRS or the file lists some itself.

    None for a model that was not loaded from a file, or changed since, or needs its geoms for more than contacts.
    """
    path = _files.get(digest(model))
    if path is None or not path.is_file() or not features.may_rebuild(model):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which were given when the model was loaded
        spec = mujoco.MjSpec.from_file(str(path))
        if spec.compiler.discardvisual or digest(spec.compile()) != digest(model):
            return None  # geoms are numbered otherwise; the file has changed
        pairs = list_contact_pairs(model)
        if len(pairs) <= MOST_PAIRS and features.may_list_contacts(model):
            add_pairs(spec, model, pairs)
        for part in [*spec.cameras, *spec.lights]:
            spec.delete(part)
        spec.compiler.discardvisual = True
        # Geoms that are discarded leave their bodies' inertia behind, but not where a file insists on geoms.
        spec.compiler.inertiafromgeom = int(mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO)
        try:
            out = spec.compile()
        except ValueError:  # a deleted part is needed after all
            return None
    inertia = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_M0")
    same = all(np.array_equal(getattr(out, name), getattr(model, name)) for name in inertia)
    return out if same else None
