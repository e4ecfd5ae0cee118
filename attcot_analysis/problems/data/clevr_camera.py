"""CLEVR's camera and shapes: which rectangle of the picture an object is drawn in.

The dataset's camera is Blender's default (a lens of 35 mm before a sensor of 32 mm, 480 x 320
pixels) and looks at the origin from a place that differs from scene to scene. That place is fitted
to the objects' places in space and in the picture; ``directions`` are of the camera before it was
moved. A shape reaches ``size`` around its centre in every direction of its own axes (spheres:
radius; cylinders: radius and half height; cubes: half edge, less their rounded edges). Rotations
were drawn in degrees and applied as radians.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attcot_analysis.problems.problem import Box

FloatArray = npt.NDArray[np.float64]

_WIDTH, _HEIGHT, _FOCAL = 480, 320, 525.0
_USUAL = (2.425, 0.495, 11.3)
"""Heading and descent of the view in radians, and distance from the origin: the average camera."""
_RADIUS = {"large": 0.7, "small": 0.35}
_CUBE = 0.94
"""Half of what is drawn of a cube's edge over its ``size``; measured on published pictures."""
_FITS = 2.0
"""Pixels; published coordinates are rounded to whole ones."""


def object_boxes(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Box]:
    """The boxes of all objects of a scene graph, cut at the picture's edges.

    Args:
        objects: With ``3d_coords``, ``pixel_coords`` (x, y, depth), ``shape``, ``size``,
            ``rotation``.
        size: Width and height of the picture, which may be another than 480 x 320.

    Raises:
        ValueError: If objects are not where CLEVR's camera sees them, or outside of the picture.
    """
    width, height = size
    scale = width / _WIDTH
    if abs(height - _HEIGHT * scale) > 1:
        raise ValueError(f"a picture of {width}x{height} is no CLEVR picture, which are 3 to 2")
    places = np.array([one["3d_coords"] for one in objects], dtype=float).reshape(-1, 3)
    seen = np.array([one["pixel_coords"] for one in objects], dtype=float).reshape(-1, 3)
    camera = _camera(places, seen)
    found = []
    for place, thing in zip(places, objects, strict=True):
        low, high = (edge * scale for edge in _extent(camera, place, thing))
        x0, y0 = (float(edge) for edge in np.maximum(low, 0.0))
        x1, y1 = (float(edge) for edge in np.minimum(high, (width, height)))
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"an object lies outside of the picture, at {thing['pixel_coords']}")
        found.append((x0, y0, x1, y1))
    return found


def _camera(places: FloatArray, seen: FloatArray) -> FloatArray:
    """Heading, descent and distance that show the places where they are seen."""

    def wrong(camera: FloatArray) -> FloatArray:
        across, down, depth = _pixels(_in_view(camera, places)).T
        # A unit of depth moves what is drawn by about as many pixels.
        near = np.stack([across - seen[:, 0], down - seen[:, 1], (depth - seen[:, 2]) * 40])
        return np.asarray(near.ravel())

    camera, small = np.array(_USUAL), 1e-6
    for _ in range(10):
        now = wrong(camera)
        slope = [(wrong(camera + step) - now) / small for step in small * np.eye(3)]
        camera = camera - np.linalg.lstsq(np.stack(slope, axis=1), now, rcond=None)[0]
    off = float(np.abs(wrong(camera)).max(initial=0.0))
    if not off <= _FITS:
        raise ValueError(f"its objects lie {off:.0f} pixels from where CLEVR's camera shows them")
    return camera


def _in_view(camera: FloatArray, points: FloatArray) -> FloatArray:
    """Points as the camera sees them: to the right, upwards and ahead of it."""
    heading, descent, distance = camera
    ahead = np.array([np.cos(heading), np.sin(heading), 0.0]) * np.cos(descent)
    ahead[2] = -np.sin(descent)
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    axes = np.stack([right, np.cross(right, ahead), ahead])
    return np.asarray(points @ axes.T + np.array([0.0, 0.0, distance]))


def _pixels(points: FloatArray) -> FloatArray:
    x, y, depth = points.T
    return np.stack([_WIDTH / 2 + _FOCAL * x / depth, _HEIGHT / 2 - _FOCAL * y / depth, depth], 1)


def _extent(
    camera: FloatArray, place: FloatArray, thing: Mapping[str, Any]
) -> tuple[FloatArray, FloatArray]:
    """Upper left and lower right corner of what is drawn of an object, at a width of 480."""
    radius, shape = _RADIUS[thing["size"]], thing["shape"]
    if shape == "sphere":
        return _sphere(_in_view(camera, place[None])[0], radius)
    if shape == "cylinder":
        angles = np.linspace(0, 2 * np.pi, 128)
    elif shape == "cube":
        radius *= _CUBE
        angles = float(thing["rotation"]) + np.pi / 4 + np.arange(4) * np.pi / 2
    else:
        raise ValueError(f"shape {shape!r} is none of CLEVR's")
    reach = radius * (np.sqrt(2) if shape == "cube" else 1.0)
    ring = [np.cos(angles) * reach, np.sin(angles) * reach]
    ends = [np.stack([*ring, np.full(len(angles), end)], axis=1) for end in (-radius, radius)]
    points = place + np.concatenate(ends)
    drawn = _pixels(_in_view(camera, points))[:, :2]
    return drawn.min(axis=0), drawn.max(axis=0)


def _sphere(centre: FloatArray, radius: float) -> tuple[FloatArray, FloatArray]:
    """Where the planes through the camera that touch a sphere meet the picture."""
    side, depth = centre[:2], centre[2]
    near = depth**2 - radius**2
    reach = radius * np.sqrt(side**2 + near)
    low, high = (_FOCAL * (side * depth + sign * reach) / near for sign in (-1, 1))
    left, right = _WIDTH / 2 + low[0], _WIDTH / 2 + high[0]
    return (
        np.array([left, _HEIGHT / 2 - high[1]]),
        np.array([right, _HEIGHT / 2 - low[1]]),
    )
