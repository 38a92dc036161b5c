"""The pairs of geoms that MuJoCo's search for contacts would let touch, as explicit `<pair>` elements of a model.

At every evaluation of the dynamics, MuJoCo looks for bodies that are near each other, by sorting their boxes along an
axis: a good part of the time of a robot of a few bodies. A model whose pairs are listed is spared that, and makes the
same contacts in the same order with the same parameters. MuJoCo's documentation, Computation: Collision detection, has
the rules that are followed here.
"""

from __future__ import annotations

import mujoco
import numpy as np

MOST_PAIRS = 64  # beyond some number, the search is faster


def list_contact_pairs(model: mujoco.MjModel) -> list[tuple[int, int]]:
    """Pairs of indices of geoms that MuJoCo's search would let touch, in the order of its contacts.

    Geoms touch if a bit of one's `contype` is in the other's `conaffinity`; not those of one body, of bodies welded to
    each other, of a body and its parent (unless the model filters no parents), and of excluded bodies.
    """
    excluded = set(model.exclude_signature.tolist())
    weld = model.body_weldid
    parent = weld[model.body_parentid[weld]]
    filter_parent = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT

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


def add_pairs(spec: mujoco.MjSpec, model: mujoco.MjModel, pairs: list[tuple[int, int]]) -> None:
    """Adds these pairs to `spec`, from which `model` was compiled, and lets no other geoms touch."""
    geoms = sorted(spec.geoms, key=lambda geom: geom.id)
    for geom in geoms:
        geom.name = geom.name or f"geom {geom.id}, which has no name"
        geom.contype = geom.conaffinity = 0
    for first, second in pairs:
        parameters = contact_parameters(model, first, second)
        spec.add_pair(geomname1=geoms[first].name, geomname2=geoms[second].name, **parameters)


def contact_parameters(model: mujoco.MjModel, first: int, second: int) -> dict:
    """Arguments of `MjSpec.add_pair` for the contact of two geoms, mixed from the geoms' parameters as MuJoCo does (its
    documentation, Computation: Contact)."""
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
