"""Meshes of the simulated world: the Panda's, merged and decimated, and turned household shapes."""

import hashlib
import importlib.util
import math
import os
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LINKS = tuple(f"link{i}" for i in range(8))
FACES_PER_PART = 260
_DARK = 0.5


class Mesh(NamedTuple):
    """Vertices [n, 3] in metres and triangles [m, 3]."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]


def assets() -> Path:
    """robosuite's asset folder, found without importing robosuite."""
    spec = importlib.util.find_spec("robosuite")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "the simulator needs robosuite's asset files: pip install --no-deps robosuite==1.5.2"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "models" / "assets"


def panda() -> dict[str, Mesh]:
    """The Panda's visual meshes, `link3.light`, `link3.dark`, `hand.light`, `finger.dark`, …

    Decimated once and kept in a cache folder (PELICAN_CACHE, else the temporary folder).
    """
    key = hashlib.sha256(f"panda-3-{FACES_PER_PART}".encode()).hexdigest()[:12]
    root = os.environ.get("PELICAN_CACHE") or os.path.join(
        tempfile.gettempdir(), f"pelican-{os.getuid()}"
    )
    path = Path(root) / f"panda-{key}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = _build_panda()
        arrays: dict[str, NDArray[Any]] = {f"{k}/v": m.vertices for k, m in parts.items()}
        arrays |= {f"{k}/f": m.faces for k, m in parts.items()}
        partial = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    with np.load(path, allow_pickle=False) as z:
        names = sorted(k[:-2] for k in z.files if k.endswith("/v"))
        return {k: Mesh(z[f"{k}/v"], z[f"{k}/f"]) for k in names}


def _build_panda() -> dict[str, Mesh]:
    import trimesh

    root = assets()
    robot = ET.parse(root / "robots" / "panda" / "robot.xml").getroot()
    shade = {
        m.get("name"): sum(map(float, (m.get("rgba") or "1 1 1 1").split()[:3])) / 3
        for m in robot.iter("material")
    }
    files = {m.get("name"): m.get("file") for m in robot.iter("mesh")}
    out: dict[str, Mesh] = {}
    for link in LINKS:
        groups: dict[str, list[Mesh]] = {"light": [], "dark": []}
        for geom in robot.iter("geom"):
            name = geom.get("mesh") or ""
            if not name.startswith(f"{link}_vis"):
                continue
            tone = "dark" if shade[geom.get("material")] < _DARK else "light"
            groups[tone].append(_load(trimesh, root / "robots" / "panda" / str(files[name])))
        for tone, meshes in groups.items():
            if meshes:
                out[f"{link}.{tone}"] = _decimate(_merge(meshes), FACES_PER_PART)
    grip = root / "grippers" / "meshes" / "panda_gripper"
    out["hand.light"] = _decimate(_load(trimesh, grip / "hand_vis.stl"), FACES_PER_PART)
    out["finger.dark"] = _decimate(_load(trimesh, grip / "finger_vis.stl"), 200)
    return out


def _load(trimesh: object, path: Path) -> Mesh:
    mesh = trimesh.load(path, force="mesh", process=False)  # type: ignore[attr-defined]
    return Mesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def _merge(meshes: list[Mesh]) -> Mesh:
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=True)]),
    )


def _decimate(mesh: Mesh, faces: int) -> Mesh:
    import fast_simplification

    vertices, index = np.unique(mesh.vertices.round(6), axis=0, return_inverse=True)
    triangles = index.reshape(-1)[mesh.faces]
    distinct = (triangles[:, 0] != triangles[:, 1]) & (triangles[:, 1] != triangles[:, 2])
    triangles = triangles[distinct & (triangles[:, 0] != triangles[:, 2])]
    if len(triangles) > faces:
        v, f = fast_simplification.simplify(
            vertices.astype(np.float32), triangles.astype(np.int32), target_count=faces
        )
        return Mesh(np.asarray(v, np.float64), np.asarray(f, np.int64))
    return Mesh(vertices, triangles)


def lathe(profile: list[tuple[float, float]], sides: int = 16) -> Mesh:
    """The surface that a profile of (radius, z) makes when turned about z."""
    rings = []
    angles = np.arange(sides) * 2 * math.pi / sides
    for r, z in profile:
        rings.append(np.stack([r * np.cos(angles), r * np.sin(angles), np.full(sides, z)], 1))
    faces = []
    for i in range(len(profile) - 1):
        for j in range(sides):
            a, b = i * sides + j, i * sides + (j + 1) % sides
            c, d = a + sides, b + sides
            if profile[i][0] > 1e-6:
                faces.append((a, b, d))
            if profile[i + 1][0] > 1e-6:
                faces.append((a, d, c))
    return Mesh(np.concatenate(rings), np.array(faces, np.int64))


def torus(radius: float, tube: float, sides: int = 12, rings: int = 6) -> Mesh:
    """A ring in the x-z plane about the origin."""
    u = np.arange(sides) * 2 * math.pi / sides
    v = np.arange(rings) * 2 * math.pi / rings
    uu, vv = np.meshgrid(u, v, indexing="ij")
    r = radius + tube * np.cos(vv)
    vertices = np.stack([r * np.cos(uu), tube * np.sin(vv), r * np.sin(uu)], -1).reshape(-1, 3)
    faces = []
    for i in range(sides):
        for j in range(rings):
            a = i * rings + j
            b = i * rings + (j + 1) % rings
            c = (i + 1) % sides * rings + j
            d = (i + 1) % sides * rings + (j + 1) % rings
            faces += [(a, b, d), (a, d, c)]
    return Mesh(vertices, np.array(faces, np.int64))


def household() -> dict[str, Mesh]:
    """Bottle, bowl and mug, each standing on z = -half of its height (metres)."""
    bottle = [(0, -0.065), (0.035, -0.065), (0.036, 0.005), (0.030, 0.022), (0.015, 0.038)]
    bottle += [(0.014, 0.055), (0.018, 0.056), (0.018, 0.066), (0, 0.066)]
    bowl = [(0, -0.024), (0.028, -0.024), (0.050, 0.002), (0.058, 0.026), (0.053, 0.026)]
    bowl += [(0.043, 0.0), (0.022, -0.016), (0, -0.016)]
    mug = [(0, -0.042), (0.037, -0.042), (0.038, 0.042), (0.031, 0.042), (0.031, -0.034)]
    mug += [(0, -0.034)]
    ring = torus(0.024, 0.0075)
    handle = Mesh(ring.vertices + np.array([0.050, 0, 0.002]), ring.faces)
    return {"bottle": lathe(bottle), "bowl": lathe(bowl), "mug": _merge([lathe(mug), handle])}
