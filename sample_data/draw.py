"""Draw the sample data: turned steel flanges on a conveyor belt, as a camera of an inspection line sees them.

``python sample_data/draw.py`` rewrites what lies beside this file:

* ``normal/``: 80 good flanges;
* ``incoming/``: 40 pictures in shuffled order: good flanges, flanges with one plain local defect, objects
  that are no flange at all, and one good flange whose file was cut off half way; then 25 more in shuffled
  order: good flanges, and flanges with one small faint defect;
* ``masks/``: for each flange with a defect a 1-bit picture of the same stem, white where the defect shows;
* ``labels.csv``: which of the incoming pictures are anomalous.

Each picture is a height field lit by one lamp, drawn at three times the final size and reduced.
Lengths on a part are in radii of the flange; the picture seeds are fixed, so every run draws the same.
"""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

FOLDER = Path(__file__).resolve().parent
SEED = 4
NORMAL_COUNT = 80
INCOMING_GOOD_COUNT = 29
LATER_GOOD_COUNT = 10
SIZE = 256
SUPERSAMPLING = 3
CANVAS = SIZE * SUPERSAMPLING
FLANGE_RADIUS = 0.355  # of the picture's side
JPEG_QUALITY = 88
VISIBLE = 6  # of the picture's 255 levels
MASK_MARGIN = 2  # pixels

HOLE_COUNT = 6
HOLE_CIRCLE = 0.755
HOLE_RADIUS = 0.115
BORE_RADIUS = 0.27
HUB_RADIUS = 0.50
THICKNESS = 0.14

STEEL = (0.50, 0.51, 0.53)
DARK_STEEL = (0.42, 0.43, 0.45)
RUST = (0.36, 0.17, 0.07)
RESIN = (0.30, 0.25, 0.19)
BLACK_PLASTIC = (0.26, 0.29, 0.34)
BELT = (0.20, 0.245, 0.24)

Plane = NDArray[np.float32]
Point = tuple[float, float]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """What differs from one picture to the next though the part is good."""

    centre: Point
    angle: float
    scale: float
    lamp_azimuth: float
    lamp_elevation: float
    exposure: float
    falloff: Point
    tint: Colour
    blur: float
    noise: float


@dataclass(frozen=True)
class Frame:
    """Coordinates of every canvas pixel as seen from the part."""

    x: Plane
    y: Plane
    radius: Plane
    theta: Plane
    angle: float
    unit: float


@dataclass
class Surface:
    """What lies on the belt: where it is, how high, and how it answers to light."""

    solid: NDArray[np.bool_]
    height: Plane
    albedo: Plane
    gloss: Plane
    grain: Plane
    shine: float


Part = Callable[[Frame, Generator], Surface]
Defect = Callable[[Surface, Frame, Generator], None]


@dataclass(frozen=True)
class Subject:
    """One picture to draw: a part, and the defect it has if any."""

    part: Part
    defect: Defect | None = None
    anomalous: bool = False
    truncated: bool = False


def random_scene(rng: Generator) -> Scene:
    """Draw the circumstances of one picture."""
    shift = 0.036
    return Scene(
        centre=(0.5 + rng.uniform(-shift, shift), 0.5 + rng.uniform(-shift, shift)),
        angle=rng.uniform(0, 2 * math.pi),
        scale=rng.uniform(0.97, 1.03),
        lamp_azimuth=math.radians(rng.uniform(218, 258)),
        lamp_elevation=math.radians(rng.uniform(44, 56)),
        exposure=math.exp(rng.uniform(math.log(0.62), math.log(1.45))),
        falloff=(rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)),
        tint=(1 + rng.uniform(-0.015, 0.015), 1.0, 1 + rng.uniform(-0.015, 0.015)),
        blur=rng.uniform(0.2, 0.55),
        noise=rng.uniform(0.006, 0.011),
    )


def frame_of(scene: Scene) -> Frame:
    """Lay the part's coordinates over the canvas."""
    unit = FLANGE_RADIUS * CANVAS * scene.scale
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    right = (columns - scene.centre[0] * CANVAS) / unit
    down = (rows - scene.centre[1] * CANVAS) / unit
    x = right * math.cos(scene.angle) + down * math.sin(scene.angle)
    y = down * math.cos(scene.angle) - right * math.sin(scene.angle)
    return Frame(x, y, np.hypot(x, y), np.arctan2(y, x), scene.angle, unit)


# Shapes: each gives how far a pixel lies inside the shape's edge, negative outside.


def disc(frame: Frame, radius: float, centre: Point = (0.0, 0.0)) -> Plane:
    """Depth inside a disc."""
    depth: Plane = radius - np.hypot(frame.x - centre[0], frame.y - centre[1])
    return depth


def polygon(frame: Frame, sides: int, apothem: float) -> Plane:
    """Depth inside a regular polygon."""
    sector = 2 * math.pi / sides
    depth: Plane = apothem - frame.radius * np.cos(np.mod(frame.theta, sector) - sector / 2)
    return depth


def bolt_hole(index: int) -> Point:
    """Centre of one of the flange's bolt holes."""
    return on_circle(HOLE_CIRCLE, 2 * math.pi * index / HOLE_COUNT)


def on_circle(radius: float, theta: float) -> Point:
    """Point at an angle on a circle around the part's centre."""
    return radius * math.cos(theta), radius * math.sin(theta)


def line_distance(frame: Frame, points: list[Point]) -> Plane:
    """Distance to a line through the points."""
    nearest = np.full_like(frame.x, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = ((frame.x - x0) * dx + (frame.y - y0) * dy) / (dx * dx + dy * dy)
        along = np.clip(along, 0, 1)
        nearest = np.minimum(nearest, np.hypot(frame.x - x0 - along * dx, frame.y - y0 - along * dy))
    return nearest


# Textures.


def clouds(rng: Generator, cells: int) -> Plane:
    """Smooth noise of unit strength with so many cells across the canvas."""
    grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), dtype=np.float32)


def turning_marks(frame: Frame, rng: Generator) -> Plane:
    """Rings a lathe tool leaves: noise along the radius only."""
    fine = np.interp(frame.radius, np.linspace(0, 1.5, 160), rng.standard_normal(160))
    coarse = np.interp(frame.radius, np.linspace(0, 1.5, 30), rng.standard_normal(30))
    return np.asarray(0.7 * fine + 0.3 * coarse, dtype=np.float32)


def blurred(plane: Plane, radius: float) -> Plane:
    """Gaussian blur of a plane of values from 0 to 1, radius in canvas pixels."""
    picture = Image.fromarray(np.round(np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)


def painted(frame: Frame, colour: Colour) -> Plane:
    """One colour over the whole canvas."""
    return np.tile(np.asarray(colour, dtype=np.float32), (*frame.x.shape, 1))


def mix(surface: Surface, colour: Colour, share: Plane) -> None:
    """Paint a colour over the surface where, and as much as, ``share`` says."""
    surface.albedo += share[..., None] * (np.asarray(colour, dtype=np.float32) - surface.albedo)


def belt(rng: Generator) -> Plane:
    """Woven belt: two diagonal families of threads, worn here and there."""
    pitch = CANVAS / 46
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) + rng.uniform(0, 4 * pitch)
    warp = np.sin(2 * math.pi * (columns + rows) / pitch)
    weft = np.sin(2 * math.pi * (columns - rows) / pitch)
    weave = np.maximum(warp, weft) - 0.4
    level = 1 + 0.13 * weave + 0.05 * clouds(rng, 9) + 0.07 * clouds(rng, CANVAS // 4)
    cloth: Plane = level[..., None] * np.asarray(BELT, dtype=np.float32)
    return cloth


# Parts.


def turned(frame: Frame, rng: Generator, inside: Plane, height: Plane, colour: Colour) -> Surface:
    """Surface of a part from the lathe: shiny along the rings of its tool."""
    marks = turning_marks(frame, rng)
    albedo = painted(frame, colour) * (1 + 0.035 * marks + 0.02 * clouds(rng, 40))[..., None]
    gloss = np.clip(0.30 + 0.07 * marks, 0, None).astype(np.float32)
    grain = frame.theta + np.float32(math.pi / 2)
    return Surface(inside > 0, height + 0.0006 * marks, albedo, gloss, grain, shine=0.10)


def flange(frame: Frame, rng: Generator) -> Surface:
    """Steel flange: a disc with a raised hub, a bore and six bolt holes."""
    inside = np.minimum(disc(frame, 1.0), -disc(frame, BORE_RADIUS))
    countersink = np.zeros_like(frame.x)
    for index in range(HOLE_COUNT):
        hole = disc(frame, HOLE_RADIUS, bolt_hole(index))
        inside = np.minimum(inside, -hole)
        countersink = np.maximum(countersink, np.clip(hole + 0.035, 0, 0.035))
    hub = 1.3 * np.clip(disc(frame, HUB_RADIUS), 0, 0.045)
    groove = 0.6 * np.clip(0.02 - np.abs(frame.radius - 0.575), 0, 0.012)
    height = THICKNESS + 0.9 * np.clip(inside, 0, 0.035) + hub - groove - 0.4 * countersink
    return turned(frame, rng, inside, height, STEEL)


def hex_nut(frame: Frame, rng: Generator) -> Surface:
    """Hexagonal nut with a chamfered face and a threaded bore."""
    inside = np.minimum(polygon(frame, 6, 0.80), -disc(frame, 0.40))
    chamfer = 0.8 * np.minimum(disc(frame, 0.80), 0)
    thread = 0.02 * np.sin(2 * math.pi * frame.radius / 0.035) * (frame.radius < 0.48)
    lead_in = 0.9 * np.minimum(frame.radius - 0.50, 0)
    height = 0.40 + chamfer + thread + lead_in + 0.5 * np.clip(inside, 0, 0.02)
    return turned(frame, rng, inside, height, DARK_STEEL)


def gear(frame: Frame, rng: Generator) -> Surface:
    """Spur gear with a recessed web and a keyed bore."""
    teeth = 0.90 + 0.085 * np.clip(1.8 * np.cos(22 * frame.theta), -1, 1)
    keyway = np.minimum(0.07 - np.abs(frame.y), np.minimum(frame.x, 0.32 - frame.x))
    inside = np.minimum(teeth - frame.radius, -np.maximum(disc(frame, 0.22), keyway))
    web = np.clip(0.15 - np.abs(frame.radius - 0.56), 0, 0.04)
    height = 0.2 + 0.8 * np.clip(inside, 0, 0.03) - 1.5 * web
    return turned(frame, rng, inside, height, STEEL)


def plastic_cap(frame: Frame, rng: Generator) -> Surface:
    """Moulded cap with a knurled edge and a dished top."""
    knurl = 0.86 + 0.022 * np.cos(44 * frame.theta)
    inside = knurl - frame.radius
    rounded = 0.16 * np.sqrt(np.clip(1 - np.square(1 - np.clip(inside / 0.16, 0, 1)), 0, 1))
    dish = 0.7 * np.clip(disc(frame, 0.58), 0, 0.06)
    height = 0.25 + rounded - dish + 0.4 * np.clip(disc(frame, 0.07), 0, 0.03)
    albedo = painted(frame, BLACK_PLASTIC) * (1 + 0.03 * clouds(rng, 200))[..., None]
    return Surface(inside > 0, height, albedo, np.zeros_like(frame.x), np.zeros_like(frame.x), shine=0.5)


def screw(frame: Frame, rng: Generator) -> Surface:
    """Machine screw lying on its side."""
    crest = np.abs(np.mod((frame.x + 0.12 * frame.y) / 0.09, 1) - 0.5)
    threaded = 0.25 - 0.09 * crest * (frame.x > -0.25)
    shank = np.where(frame.x < 0.85, threaded, threaded - 1.2 * (frame.x - 0.85))
    head = 0.52 * np.sqrt(np.clip(1 - np.square((frame.x + 0.55) / 0.36), 0, 1))
    half_width = np.where(frame.x < -0.55, head, np.where(frame.x < -0.50, 0.52, shank))
    half_width = np.where(np.abs(frame.x) < 1.0, half_width, 0).astype(np.float32)
    height = np.sqrt(np.clip(np.square(half_width) - np.square(frame.y), 0, None))
    albedo = painted(frame, STEEL) * (1 + 0.04 * clouds(rng, 60))[..., None]
    grain = np.full_like(frame.x, math.pi / 2)
    return Surface(
        np.abs(frame.y) < half_width, height, albedo, np.full_like(frame.x, 0.2), grain, shine=0.35
    )


# Defects.


def scratch(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Gouge a few lines that fan out over the face of the flange: dark furrows with bright lips."""
    middle = on_circle(0.66, math.pi / HOLE_COUNT * (1 + 2 * rng.integers(HOLE_COUNT)))
    heading = math.atan2(middle[1], middle[0]) + rng.uniform(0.6, 0.8)
    for offset, fan in ((-0.11, 0.14), (-0.02, 0.0), (0.06, 0.05), (0.13, -0.24)):
        start = rng.uniform(-0.50, -0.42)
        reach = np.linspace(start, start + rng.uniform(0.82, 0.98), 9)
        sway = offset + fan * reach + rng.normal(0, 0.004, 9)
        xs = middle[0] + reach * math.cos(heading) - sway * math.sin(heading)
        ys = middle[1] + reach * math.sin(heading) + sway * math.cos(heading)
        distance = line_distance(frame, list(zip(xs, ys, strict=True)))
        furrow = np.clip((0.015 - distance) / 0.006, 0, 1)
        lip = np.clip((0.030 - distance) / 0.006, 0, 1) - furrow
        mix(surface, (0.85, 0.85, 0.85), 0.7 * lip)
        mix(surface, (0.12, 0.12, 0.13), 0.85 * furrow)
        surface.gloss *= 1 - furrow


def chip(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Break a piece out of the rim, leaving a rough slope."""
    theta = math.pi / HOLE_COUNT * (1 + 2 * rng.integers(HOLE_COUNT)) + rng.uniform(-0.1, 0.1)
    broken = disc(frame, 0.29, on_circle(1.03, theta)) + 0.024 * clouds(rng, 40) + 0.01 * clouds(rng, 110)
    slope = np.clip(broken, 0, 0.09)
    rough = (broken > 0).astype(np.float32)
    surface.height -= 1.0 * slope + rough * 0.006 * clouds(rng, 110)
    surface.gloss *= 1 - rough
    mix(surface, DARK_STEEL, 0.7 * rough)
    surface.solid &= broken < 0.09


def plugged_hole(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Fill one bolt hole with a lump of resin that spills over its edge."""
    centre = bolt_hole(int(rng.integers(HOLE_COUNT)))
    lump = disc(frame, HOLE_RADIUS + 0.075, centre) + 0.022 * clouds(rng, 34)
    filled = lump > 0
    surface.solid |= filled
    dome = THICKNESS + 0.5 * np.clip(lump, 0, 0.08) + 0.0015 * clouds(rng, 90)
    surface.height[filled] = dome[filled]
    surface.gloss[filled] = 0.03
    mix(surface, RESIN, filled.astype(np.float32))


def rust_stain(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Let a blotch of rust eat into the flat of the flange."""
    theta = math.pi / HOLE_COUNT * (1 + 2 * rng.integers(HOLE_COUNT))
    blotch = disc(frame, 0.235, on_circle(0.77, theta)) + 0.05 * clouds(rng, 24) + 0.02 * clouds(rng, 90)
    share = np.clip(blotch / 0.06, 0, 0.92)
    surface.gloss *= 1 - share
    surface.height += share * 0.0015 * clouds(rng, 160)
    mix(surface, RUST, share * np.clip(0.85 + 0.15 * clouds(rng, 60), 0, 1))


def crack(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Split the flange from its rim past a bolt hole to the hub, with a branch."""
    index = int(rng.integers(HOLE_COUNT))
    theta = 2 * math.pi * index / HOLE_COUNT
    radii = np.linspace(1.0, 0.36, 10)
    angles = theta + 0.16 + rng.normal(0, 0.035, 10)
    trunk = [on_circle(float(r), float(a)) for r, a in zip(radii, angles, strict=True)]
    ends = [on_circle(0.62, theta + 0.36), on_circle(0.55, theta + 0.52), on_circle(0.58, theta + 0.72)]
    split = np.minimum(line_distance(frame, trunk), line_distance(frame, [trunk[5], *ends]))
    width = 0.018 + 0.005 * clouds(rng, 30)
    open_part = np.clip((width - split) / 0.006, 0, 1)
    surface.height -= 0.6 * np.clip(0.05 - split, 0, 0.04)
    surface.gloss *= 1 - open_part
    mix(surface, (0.03, 0.03, 0.03), open_part)


def burr(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Leave a ragged, bright curl of metal standing out from the rim."""
    theta = rng.uniform(-math.pi, math.pi)
    away = np.angle(np.exp(1j * (frame.theta - theta))).astype(np.float32)
    spikes = np.interp(away, np.linspace(-0.38, 0.38, 26), rng.uniform(0.3, 1.0, 26))
    reach = 0.16 * spikes * np.clip(1 - np.square(away / 0.38), 0, 1)
    ragged = (frame.radius > 0.95) & (frame.radius < 1 + reach) & (np.abs(away) < 0.38)
    surface.solid |= ragged
    curl = THICKNESS + 0.08 + 0.03 * np.sin(30 * (frame.radius - 0.9)) + 0.007 * clouds(rng, 100)
    surface.height[ragged] = curl[ragged]
    surface.gloss[ragged] = 0.25
    mix(surface, (0.72, 0.72, 0.72), ragged.astype(np.float32))


DEFECTS: list[Defect] = [scratch, chip, plugged_hole, rust_stain, crack, burr]


# Small defects: from 2 to 8 % of the picture's side, faint enough that the whole picture hardly changes.


def face_point(rng: Generator) -> Point:
    """Somewhere on the flat of the flange between two bolt holes."""
    theta = math.pi / HOLE_COUNT * (1 + 2 * rng.integers(HOLE_COUNT)) + rng.uniform(-0.1, 0.1)
    return on_circle(rng.uniform(0.68, 0.86), theta)


def hole_edge(rng: Generator, outside: float) -> tuple[Point, float]:
    """A point so far outside the edge of a bolt hole, and the angle at which it lies from the hole."""
    x, y = bolt_hole(int(rng.integers(HOLE_COUNT)))
    theta = rng.uniform(-math.pi, math.pi)
    dx, dy = on_circle(HOLE_RADIUS + outside, theta)
    return (x + dx, y + dy), theta


def wavering(start: Point, heading: float, length: float, sway: float, rng: Generator) -> list[Point]:
    """Eight points of a line that strays to its sides by about ``sway``."""
    along = np.linspace(0, length, 8)
    aside = np.concatenate([[0.0], rng.normal(0, sway, 7)])
    xs = start[0] + along * math.cos(heading) - aside * math.sin(heading)
    ys = start[1] + along * math.sin(heading) + aside * math.cos(heading)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def hairline_scratch(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Draw one thin line over the face: a dark furrow with bright lips."""
    points = wavering(face_point(rng), rng.uniform(-math.pi, math.pi), 0.22, 0.003, rng)
    distance = line_distance(frame, points)
    furrow = np.clip((0.008 - distance) / 0.004, 0, 1)
    lip = np.clip((0.022 - distance) / 0.004, 0, 1) - furrow
    mix(surface, (0.85, 0.85, 0.85), 0.6 * lip)
    mix(surface, (0.15, 0.15, 0.16), 0.8 * furrow)
    surface.gloss *= 1 - furrow


def pinhole(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Leave a round pore of the casting open."""
    pore = disc(frame, 0.038, face_point(rng))
    surface.height -= np.clip(pore, 0, 0.02)
    share = np.clip(pore / 0.012, 0, 1)
    surface.gloss *= 1 - share
    mix(surface, (0.10, 0.10, 0.10), 0.8 * share)


def dent(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Press a shallow round hollow into the face."""
    inside = np.clip(disc(frame, 0.11, face_point(rng)) / 0.11, 0, 1)
    surface.height -= 0.065 * np.square(inside) * (3 - 2 * inside)


def rust_speck(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Let a speck of rust start on the face."""
    speck = disc(frame, 0.055, face_point(rng)) + 0.015 * clouds(rng, 60)
    share = np.clip(speck / 0.03, 0, 0.5).astype(np.float32)
    surface.gloss *= 1 - share
    mix(surface, RUST, share)


def nick(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Knock a small notch into the rim."""
    bite = disc(frame, 0.11, on_circle(1.02, rng.uniform(-math.pi, math.pi))) + 0.008 * clouds(rng, 90)
    surface.height -= np.clip(bite, 0, 0.05)
    surface.gloss *= bite < 0
    surface.solid &= bite < 0.02


def small_burr(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Let a flake of metal stand into a bolt hole from its edge."""
    centre, _ = hole_edge(rng, -0.01)
    flake = disc(frame, 0.07, centre) + 0.016 * clouds(rng, 80)
    raised = flake > 0
    surface.solid |= raised
    surface.height[raised] = THICKNESS + 0.6 * np.clip(flake[raised], 0, 0.03)
    surface.gloss[raised] = 0.2
    mix(surface, (0.65, 0.65, 0.65), raised.astype(np.float32))


def hairline_crack(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Start a thin crack at the edge of a bolt hole."""
    start, theta = hole_edge(rng, -0.01)
    points = wavering(start, theta + rng.uniform(-0.3, 0.3), 0.22, 0.012, rng)
    share = np.clip((0.013 - line_distance(frame, points)) / 0.004, 0, 1)
    surface.gloss *= 1 - share
    mix(surface, (0.06, 0.06, 0.06), 0.9 * share)


def fibre(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Lay a short curled thread of cloth on the face."""
    middle = face_point(rng)
    turn, bend = rng.uniform(-math.pi, math.pi), rng.uniform(0.07, 0.10)
    arc = [on_circle(bend, turn + step) for step in np.linspace(0, 3.0, 9).tolist()]
    distance = line_distance(frame, [(middle[0] + x, middle[1] + y) for x, y in arc])
    share = np.clip((0.014 - distance) / 0.004, 0, 1)
    surface.gloss *= 1 - share
    mix(surface, (0.12, 0.17, 0.40), 0.85 * share)


def swarf(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Leave a bright shaving of the lathe lying on the face."""
    points = wavering(face_point(rng), rng.uniform(-math.pi, math.pi), 0.15, 0.008, rng)
    inside = np.clip(0.028 - line_distance(frame, points), 0, None).astype(np.float32)
    surface.height += 1.5 * inside
    mix(surface, (0.80, 0.80, 0.80), 0.75 * np.clip(inside / 0.008, 0, 1))


def oil_spot(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Leave a drop of oil, which darkens the face and dulls its rings."""
    spot = disc(frame, 0.10, face_point(rng)) + 0.012 * clouds(rng, 40)
    share = np.clip(spot / 0.05, 0, 1)
    surface.gloss *= 1 - 0.7 * share
    mix(surface, (0.20, 0.18, 0.13), 0.5 * share.astype(np.float32))


def stray_hole(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Drill a thin hole where none belongs, at the edge of a bolt hole."""
    centre, _ = hole_edge(rng, 0.07)
    hole = disc(frame, 0.075, centre)
    surface.height -= 0.6 * np.clip(hole + 0.03, 0, 0.03)
    surface.solid &= hole < 0


def narrow_hole(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Leave a collar of raw metal in one bolt hole, which makes it half as wide."""
    hole = disc(frame, HOLE_RADIUS, bolt_hole(int(rng.integers(HOLE_COUNT)))) + 0.006 * clouds(rng, 60)
    collar = (hole > -0.01) & (hole < 0.055)
    surface.solid |= collar
    raw = THICKNESS + 0.4 * np.clip(0.055 - hole, 0, 0.03) + 0.003 * clouds(rng, 90)
    surface.height[collar] = raw[collar]
    surface.gloss[collar] = 0.1
    mix(surface, STEEL, collar.astype(np.float32))


def hub_nick(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Break a crumb out of the edge of the hub."""
    bite = disc(frame, 0.10, on_circle(HUB_RADIUS - 0.03, rng.uniform(-math.pi, math.pi)))
    rough = (bite + 0.012 * clouds(rng, 90) > 0) & (surface.height > THICKNESS + 0.01)
    surface.height[rough] = THICKNESS - 0.01 + 0.005 * clouds(rng, 80)[rough]
    surface.gloss[rough] = 0
    mix(surface, DARK_STEEL, 0.7 * rough.astype(np.float32))


def spatter(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Weld two beads of metal onto the face."""
    x, y = face_point(rng)
    for radius, aside in ((0.045, 0.0), (0.032, 0.09)):
        dx, dy = on_circle(aside, rng.uniform(-math.pi, math.pi))
        bead = np.clip(disc(frame, radius, (x + dx, y + dy)), 0, None)
        surface.height += np.sqrt(bead * (2 * radius - bead))
        mix(surface, DARK_STEEL, 0.8 * np.clip(bead / 0.01, 0, 1))


def scuff(surface: Surface, frame: Frame, rng: Generator) -> None:
    """Rub a small patch of the face by short strokes across its rings."""
    x, y = face_point(rng)
    heading = math.atan2(y, x) + rng.uniform(-0.3, 0.3)
    for aside in np.linspace(-0.08, 0.08, 5):
        start = (x - aside * math.sin(heading), y + aside * math.cos(heading))
        points = wavering(start, heading + rng.normal(0, 0.08), rng.uniform(0.13, 0.20), 0.003, rng)
        share = np.clip((0.013 - line_distance(frame, points)) / 0.005, 0, 1)
        surface.gloss *= 1 - 0.7 * share
        mix(surface, (0.85, 0.85, 0.85), 0.9 * share)


SMALL_DEFECTS: list[Defect] = [
    hairline_scratch,
    pinhole,
    dent,
    rust_speck,
    nick,
    small_burr,
    hairline_crack,
    fibre,
    swarf,
    oil_spot,
    stray_hole,
    narrow_hole,
    hub_nick,
    spatter,
    scuff,
]


# Light and camera.


def lit(surface: Surface, frame: Frame, scene: Scene) -> Plane:
    """Colour of the part under the lamp: diffuse, plus highlights along the grain and on smooth slopes."""
    down, right = np.gradient(surface.height * frame.unit)
    length = np.sqrt(np.square(down) + np.square(right) + 1)
    level = math.cos(scene.lamp_elevation)
    lamp_x, lamp_y = level * math.cos(scene.lamp_azimuth), level * math.sin(scene.lamp_azimuth)
    lamp_z = math.sin(scene.lamp_elevation)
    diffuse = np.clip((lamp_z - right * lamp_x - down * lamp_y) / length, 0, None)
    half = 1 / math.sqrt(2 + 2 * lamp_z)  # the camera looks straight down
    facing = np.clip((1 + lamp_z - right * lamp_x - down * lamp_y) * half / length, 0, 1)
    along = (
        np.cos(surface.grain + frame.angle) * lamp_x + np.sin(surface.grain + frame.angle) * lamp_y
    ) * half
    streak = np.exp(-np.square(along / 0.13)) * np.square(facing)
    highlight = surface.gloss * streak + surface.shine * facing**40
    colour: Plane = surface.albedo * (0.35 + 0.75 * diffuse)[..., None] + highlight[..., None]
    return colour


def composed(surface: Surface, frame: Frame, scene: Scene, rng: Generator) -> Plane:
    """Part and belt together, with the part's shadow and the dimness of hollows."""
    solid = surface.solid.astype(np.float32)
    throw = 0.11 * frame.unit / math.tan(scene.lamp_elevation)
    shift = (
        round(-throw * math.sin(scene.lamp_azimuth)),
        round(-throw * math.cos(scene.lamp_azimuth)),
    )
    shadow = blurred(np.roll(solid, shift, axis=(0, 1)), 0.030 * frame.unit)
    relief = np.clip(solid * surface.height, 0, 0.5)
    hollow = np.clip(blurred(2 * relief, 0.06 * frame.unit) / 2 - relief, 0, None)
    dimmed = 1 - np.clip(2.2 * hollow, 0, 0.5)
    ground = belt(rng) * (1 - 0.62 * shadow)[..., None]
    picture = np.where(surface.solid[..., None], lit(surface, frame, scene), ground)
    return np.asarray(picture * dimmed[..., None], dtype=np.float32)


def photographed(picture: Plane, scene: Scene, rng: Generator) -> Image.Image:
    """What the camera makes of it: uneven light, exposure, reduction, sensor noise."""
    down, right = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j].astype(np.float32)
    evenness = 1 + scene.falloff[0] * right + scene.falloff[1] * down - 0.08 * (right**2 + down**2)
    exposed = picture * (scene.exposure * evenness)[..., None] * np.asarray(scene.tint)
    exposed = np.where(exposed < 0.7, exposed, 0.7 + 0.3 * np.tanh((exposed - 0.7) / 0.3))
    image = Image.fromarray(np.round(exposed * 255).astype(np.uint8))
    image = image.resize((SIZE, SIZE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(scene.blur))
    signal = np.asarray(image, dtype=np.float32) / 255
    grain = rng.standard_normal(signal.shape, dtype=np.float32)
    noisy = signal + scene.noise * (0.5 + np.sqrt(signal)) * grain
    return Image.fromarray(np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8))


def drawn(subject: Subject, seed: list[int], noisy: bool = True) -> Image.Image:
    """Draw one picture; the seed decides its scene, and a defect changes nothing else in it."""
    scene_rng, part_rng, defect_rng, camera_rng = np.random.default_rng(seed).spawn(4)
    scene = random_scene(scene_rng)
    if not noisy:
        scene = replace(scene, noise=0.0)
    frame = frame_of(scene)
    surface = subject.part(frame, part_rng)
    if subject.defect is not None:
        subject.defect(surface, frame, defect_rng)
    return photographed(composed(surface, frame, scene, camera_rng), scene, camera_rng)


def mask(subject: Subject, seed: list[int]) -> Image.Image:
    """Where the subject's defect shows: the change it makes to the picture without noise, and a margin."""
    flawed = np.asarray(drawn(subject, seed, noisy=False), dtype=np.int16)
    good = np.asarray(drawn(replace(subject, defect=None), seed, noisy=False), dtype=np.int16)
    visible = np.abs(flawed - good).max(axis=2) >= VISIBLE
    white = Image.fromarray(visible.astype(np.uint8) * np.uint8(255))
    return white.filter(ImageFilter.MaxFilter(2 * MASK_MARGIN + 1)).convert("1")


def incoming_subjects() -> list[Subject]:
    """The pictures of ``incoming/`` in the order they are numbered."""
    strangers: list[Part] = [hex_nut, gear, plastic_cap, screw]
    subjects = [Subject(flange)] * INCOMING_GOOD_COUNT
    subjects += [Subject(flange, defect, anomalous=True) for defect in DEFECTS]
    subjects += [Subject(part, anomalous=True) for part in strangers]
    subjects.append(Subject(flange, truncated=True))
    later = [Subject(flange)] * LATER_GOOD_COUNT
    later += [Subject(flange, defect, anomalous=True) for defect in SMALL_DEFECTS]
    return shuffled(subjects, SEED) + shuffled(later, SEED + 1)


def shuffled(subjects: list[Subject], seed: int) -> list[Subject]:
    """The subjects in an order that the seed decides."""
    return [subjects[index] for index in np.random.default_rng(seed).permutation(len(subjects))]


def jpeg(subject: Subject, seed: list[int]) -> bytes:
    """The picture as the bytes of a JPEG file, cut in half if the subject says so."""
    buffer = io.BytesIO()
    drawn(subject, seed).save(buffer, "JPEG", quality=JPEG_QUALITY)
    content = buffer.getvalue()
    return content[: len(content) // 2] if subject.truncated else content


def main() -> None:
    """Rewrite the folder beside this file."""
    for name in ("normal", "incoming", "masks"):
        (FOLDER / name).mkdir(exist_ok=True)
        for stale in (FOLDER / name).glob("part_*.*"):
            stale.unlink()
    for index in range(NORMAL_COUNT):
        path = FOLDER / "normal" / f"part_{index:03d}.jpg"
        path.write_bytes(jpeg(Subject(flange), [SEED, 0, index]))
    rows = []
    for index, subject in enumerate(incoming_subjects()):
        path = FOLDER / "incoming" / f"part_{index:03d}.jpg"
        path.write_bytes(jpeg(subject, [SEED, 1, index]))
        if subject.defect is not None:
            mask(subject, [SEED, 1, index]).save(FOLDER / "masks" / f"{path.stem}.png", optimize=True)
        rows.append((path.relative_to(FOLDER).as_posix(), int(subject.anomalous)))
    with (FOLDER / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "anomalous"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
