"""A model's equal that steps faster: the same states, bit for bit.

At every evaluation of the dynamics, MuJoCo looks for bodies that are near each other, by sorting their boxes along an
axis: a good part of the time of a robot of a few bodies. A model whose pairs of geoms are listed is spared that, and
finds the same contacts in the same order with the same parameters. It also moves what is only there to be seen: geoms
that touch nothing, cameras, lights. A model without them can only be made of the first one's file, and takes no notice
of what somebody then changes about its geoms. So it is nothing to hand out: engines ask for it, and a model that does
not equal the file's content has none. Smaller savings, which need no file, are switches of MuJoCo's.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path

import mujoco
import numpy as np

from envs.physics import features

_MOST = 64  # pairs; beyond some number, the search is the quicker way
_Switch = mujoco.mjtDisableBit

_files: dict[bytes, Path] = {}  # by the content of the model that was loaded from it


def content(model: mujoco.MjModel) -> bytes:
    """A digest of everything in the model."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).digest()


def loaded(model: mujoco.MjModel, path: Path) -> mujoco.MjModel:
    """The model, which was read from this file; `quick_equal` will know."""
    _files[content(model)] = path
    return model


def quick_equal(model: mujoco.MjModel) -> mujoco.MjModel:
    """A model, never this one itself, that steps from the same states to the same states, sensors included. Its geoms,
    cameras, lights, springs and dry friction are not to be looked at, or changed."""
    quick = _slim(model) or copy.copy(model)
    # Looking for what is not there: 1 to 2%.
    if features.may_skip_friction_loss(model):
        quick.opt.disableflags |= int(_Switch.mjDSBL_FRICTIONLOSS)
    if features.may_skip_springs(model):
        quick.opt.disableflags |= int(_Switch.mjDSBL_SPRING)
    return quick


def _slim(model: mujoco.MjModel) -> mujoco.MjModel | None:
    """The same with its contacts listed, unless there are very many or some listed already, and without what is only
    there to be seen. None where that cannot be had: a model that was not `loaded`, or has been changed since, or needs
    its geoms for more than contacts."""
    path = _files.get(content(model))
    if path is None or not path.is_file() or not features.may_rebuild(model):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said already, when the model was loaded
        spec = mujoco.MjSpec.from_file(str(path))
        if spec.compiler.discardvisual or content(spec.compile()) != content(model):
            return None  # geoms with other numbers; the file is another by now
        pairs = _pairs(model)
        if len(pairs) <= _MOST and features.may_list_contacts(model):
            _list(spec, model, pairs)
        for unseen in [*spec.cameras, *spec.lights]:
            spec.delete(unseen)
        spec.compiler.discardvisual = True
        # Geoms that are discarded leave their bodies' inertia behind, but not where a file insists on geoms.
        spec.compiler.inertiafromgeom = int(mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO)
        try:
            out = spec.compile()
        except ValueError:  # what was deleted is needed after all
            return None
    inertia = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_M0")
    same = all(np.array_equal(getattr(out, name), getattr(model, name)) for name in inertia)
    return out if same else None


def _list(spec: mujoco.MjSpec, model: mujoco.MjModel, pairs: list[tuple[int, int]]) -> None:
    """Has these geoms touch, and no others."""
    geoms = sorted(spec.geoms, key=lambda geom: geom.id)
    for geom in geoms:
        geom.name = geom.name or f"geom {geom.id}, which has no name"
        geom.contype = geom.conaffinity = 0
    for first, second in pairs:
        parameters = _parameters(model, first, second)
        spec.add_pair(geomname1=geoms[first].name, geomname2=geoms[second].name, **parameters)


def _pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Geoms that MuJoCo would let touch, in the order of its contacts."""
    excluded = set(model.exclude_signature.tolist())
    weld = model.body_weldid
    parent = weld[model.body_parentid[weld]]
    filter_parent = not model.opt.disableflags & _Switch.mjDSBL_FILTERPARENT

    def may_touch(a: int, b: int) -> bool:
        if weld[a] == weld[b] or (a << 16) + b in excluded:
            return False
        related = weld[a] and weld[b] and (weld[a] == parent[b] or weld[b] == parent[a])
        return not (filter_parent and related)

    kinds = list(zip(model.geom_contype.tolist(), model.geom_conaffinity.tolist(), strict=True))
    geoms = [np.flatnonzero(model.geom_bodyid == body).tolist() for body in range(model.nbody)]
    return [
        (first, second)
        for a in range(model.nbody)
        for b in range(a + 1, model.nbody)
        if may_touch(a, b)
        for first in geoms[a]
        for second in geoms[b]
        if kinds[first][0] & kinds[second][1] or kinds[second][0] & kinds[first][1]
    ]


def _parameters(model: mujoco.MjModel, first: int, second: int) -> dict:
    """Of a contact, from those of its geoms, as MuJoCo mixes them (its documentation, Computation: Contact)."""
    geoms = [first, second]
    condim, friction, solref, solimp, solmix, priority, margin, gap = (
        getattr(model, f"geom_{name}")[geoms]
        for name in (
            "condim",
            "friction",
            "solref",
            "solimp",
            "solmix",
            "priority",
            "margin",
            "gap",
        )
    )
    if priority[0] != priority[1]:
        winner = int(priority.argmax())
        condim, friction, solref, solimp = (x[winner] for x in (condim, friction, solref, solimp))
    else:
        smallest = mujoco.mjMINVAL
        if (solmix >= smallest).all():
            mix = solmix[0] / (solmix[0] + solmix[1])
        else:
            mix = 0.5 if (solmix < smallest).all() else float(solmix[0] >= smallest)
        mixed = mix * solref[0] + (1 - mix) * solref[1]
        solref = mixed if (solref[:, 0] > 0).all() else solref.min(0)
        solimp = mix * solimp[0] + (1 - mix) * solimp[1]
        condim, friction = condim.max(), friction.max(0)
    return {
        "condim": int(condim),
        "friction": friction[[0, 0, 1, 2, 2]],
        "solref": solref,
        "solimp": solimp,
        "margin": margin.sum(),
        "gap": gap.sum(),
    }
