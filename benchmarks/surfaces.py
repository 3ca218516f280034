"""Draw pictures of industrial surfaces with small known defects, to measure how well these are found.

``python benchmarks/surfaces.py OUT`` writes for each of five surfaces (brushed metal, woven fabric, grained
plastic, circuit board, wood):

* ``OUT/SURFACE/normal/*.png``: good pictures to learn from;
* ``OUT/SURFACE/incoming/good/*.png``: more good pictures;
* ``OUT/SURFACE/incoming/bad/KIND_*.png``: pictures with one defect each, of six kinds in turn: scratch, pit,
  stain, missing (a thread, a part, or a patch of the pattern), particle, crack;
* ``OUT/SURFACE/masks/KIND_*.png``: the same names, 1 bit, white where the defect shows.

They need no download, their masks are exact, and they have what makes the real task hard: defects from 1
to 8 % of the side, and good pictures that differ among themselves in light, colour, position, turn and
texture by more than a defect changes. They do not have the variety of real defects: they can tell that a
method is worse than another, not that it is good enough.

Each picture is a height field with a colour, lit by one lamp and seen by a camera with noise. A defect
changes nothing else in the picture: its mask is where the pictures with and without it differ before the
noise. Lengths are in sides of the picture. The same arguments draw the same pictures.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Plane = NDArray[np.float32]
Point = tuple[float, float]
Colour = tuple[float, float, float]

VISIBLE = 6  # of the picture's 255 levels
MASK_MARGIN = 1  # pixels
LAYOUT_SEED = 11
CELLS = 7  # of the circuit board, along each side
CELL = 0.17


@dataclass(frozen=True)
class Sheet:
    """Where the surface lies under the camera: ``x`` and ``y`` are every pixel's place on it."""

    x: Plane
    y: Plane
    shift: Point
    angle: float
    pixel: float

    def seen_at(self, x: float, y: float) -> Point:
        """Where a place of the surface is seen, in sides of the picture from its upper left corner."""
        right, down = x - 0.5, y - 0.5
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return (
            0.5 + self.shift[0] + right * cosine - down * sine,
            0.5 + self.shift[1] + right * sine + down * cosine,
        )


@dataclass
class Surface:
    """Colour from 0 to 1 (height, width, 3) and height above the ground (height, width) of every pixel."""

    colour: Plane
    height: Plane
    shine: float


@dataclass(frozen=True)
class Gap:
    """A round place where the pattern of the surface is broken."""

    centre: Point
    radius: float

    def inside(self, sheet: Sheet) -> Plane:
        """1 in the gap, 0 outside, soft over two pixels."""
        return soft(disc(sheet, self.centre, self.radius), 2 * sheet.pixel)


Maker = Callable[[Sheet, Generator, Gap | None], Surface]
Defect = Callable[[Surface, Sheet, Generator], None]


# Shapes and textures.


def soft(depth: Plane, width: float) -> Plane:
    """1 inside a shape, 0 outside, rising over ``width`` inside its edge."""
    return np.asarray(np.clip(depth / width, 0, 1), dtype=np.float32)


def disc(sheet: Sheet, centre: Point, radius: float) -> Plane:
    """Depth inside a disc, negative outside."""
    depth: Plane = radius - np.hypot(sheet.x - centre[0], sheet.y - centre[1])
    return depth


def line_distance(sheet: Sheet, points: list[Point]) -> Plane:
    """Distance to a line through the points."""
    nearest = np.full_like(sheet.x, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        along = ((sheet.x - x0) * dx + (sheet.y - y0) * dy) / (dx * dx + dy * dy)
        along = np.clip(along, 0, 1)
        nearest = np.minimum(nearest, np.hypot(sheet.x - x0 - along * dx, sheet.y - y0 - along * dy))
    return nearest


def noise(rng: Generator, u: Plane, v: Plane) -> Plane:
    """Smooth random values of about unit strength; one independent value at each pair of integers."""
    grid = np.float32(1.5) * rng.standard_normal(256 * 256, dtype=np.float32)
    u, v = u + np.float32(rng.uniform(0, 256)), v + np.float32(rng.uniform(0, 256))
    column, row = np.floor(u), np.floor(v)
    right, down = u - column, v - row
    right, down = right * right * (3 - 2 * right), down * down * (3 - 2 * down)
    left, upper = column.astype(np.int64) & 255, (row.astype(np.int64) & 255) << 8
    next_left, lower = (left + 1) & 255, (upper + 256) & 0xFF00
    above = grid.take(upper | left) * (1 - right) + grid.take(upper | next_left) * right
    below = grid.take(lower | left) * (1 - right) + grid.take(lower | next_left) * right
    return np.asarray(above * (1 - down) + below * down, dtype=np.float32)


def clouds(sheet: Sheet, rng: Generator, cells: float) -> Plane:
    """Smooth noise with so many cells along the picture's side."""
    return noise(rng, sheet.x * np.float32(cells), sheet.y * np.float32(cells))


def tinted(level: Plane, colour: Colour) -> Plane:
    """A colour at the brightness of each pixel."""
    return np.asarray(level[..., None] * np.asarray(colour, dtype=np.float32), dtype=np.float32)


def mix(surface: Surface, colour: Colour, share: Plane) -> None:
    """Paint a colour over the surface where, and as much as, ``share`` says."""
    surface.colour += share[..., None] * (np.asarray(colour, dtype=np.float32) - surface.colour)


def varied(rng: Generator, colour: Colour, spread: float) -> Colour:
    """The colour of one piece: brightness and hue differ a little from piece to piece."""
    level = 1 + rng.normal(0, spread)
    red, green, blue = (part * level * (1 + rng.normal(0, spread / 4)) for part in colour)
    return float(red), float(green), float(blue)


# Surfaces.


def brushed_metal(sheet: Sheet, rng: Generator, gap: Gap | None) -> Surface:
    """Sheet of steel brushed along ``x``; in a gap the brush went across."""
    x, y = sheet.x, sheet.y
    if gap is not None:
        inside = gap.inside(sheet) > 0
        x, y = np.where(inside, y, x), np.where(inside, x, y)
    streaks = np.zeros_like(x)
    for length, width, strength in ((0.3, 0.004, 0.5), (0.5, 0.009, 0.35), (0.9, 0.035, 0.35)):
        streaks = streaks + np.float32(strength) * noise(rng, x / np.float32(length), y / np.float32(width))
    glare = np.exp(-np.square((sheet.x - rng.uniform(0, 1)) / rng.uniform(0.25, 0.45)))
    level = 1 + 0.09 * streaks + 0.25 * glare + 0.03 * clouds(sheet, rng, 4)
    return Surface(tinted(level, varied(rng, (0.50, 0.51, 0.53), 0.04)), 0.0004 * streaks, shine=0.05)


def woven_fabric(sheet: Sheet, rng: Generator, gap: Gap | None) -> Surface:
    """Twill of two yarns; in a gap one thread of the warp is missing."""
    pitch = np.float32(0.021 * rng.uniform(0.97, 1.03))
    u = sheet.x / pitch + np.float32(rng.uniform(0, 60)) + 0.16 * clouds(sheet, rng, 9)
    v = sheet.y / pitch + np.float32(rng.uniform(0, 60)) + 0.16 * clouds(sheet, rng, 9)
    warp, weft = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    across_warp, across_weft = 2 * (u - warp) - 1, 2 * (v - weft) - 1
    over = np.mod(warp + weft, 3) > 0
    long = np.mod(u + np.floor(v), 3)
    ridge = 1 - np.square(np.where(over, across_warp, across_weft))
    bulge = 1 - 0.5 * np.square(np.where(over, np.mod(v + warp - 1, 3) - 1, long * 2 - 1))
    height = 0.5 + 0.5 * np.sqrt(np.clip(ridge, 0, 1)) * np.clip(bulge, 0.3, 1)
    shade = np.where(over, rng.normal(1, 0.03, 512)[warp & 511], rng.normal(1, 0.03, 512)[weft & 511])
    level = (
        shade * (0.55 + 0.45 * height) * (1 + 0.05 * clouds(sheet, rng, 130) + 0.03 * clouds(sheet, rng, 5))
    )
    blue, grey = varied(rng, (0.44, 0.50, 0.60), 0.04), varied(rng, (0.63, 0.63, 0.60), 0.04)
    colour = np.where(over[..., None], tinted(level, blue), tinted(level, grey))
    if gap is not None:
        thread = warp[pixel_of(sheet, gap.centre)]
        bare = (warp == thread) & (np.abs(sheet.y - gap.centre[1]) < gap.radius)
        height = np.where(bare, 0.25 + 0.3 * np.sqrt(np.clip(1 - np.square(across_weft), 0, 1)), height)
        colour = np.where(bare[..., None], tinted(level * (0.20 + 0.5 * height), grey), colour)
    return Surface(colour.astype(np.float32), (0.004 * height).astype(np.float32), shine=0.0)


def grained_plastic(sheet: Sheet, rng: Generator, gap: Gap | None) -> Surface:
    """Moulded plastic with the grain of leather; in a gap the grain is smooth."""
    size = np.float32(0.030 * rng.uniform(0.95, 1.05))
    u = sheet.x / size + 0.22 * clouds(sheet, rng, 8)
    v = sheet.y / size + 0.22 * clouds(sheet, rng, 8)
    pebbles = np.clip(wall_distance(rng, u, v) / 0.45, 0, 1)
    height = pebbles * (2 - pebbles) * (1 + 0.15 * clouds(sheet, rng, 33)) + 0.06 * clouds(sheet, rng, 110)
    if gap is not None:
        height = height + gap.inside(sheet) * (0.9 - height)
    level = (0.80 + 0.20 * height) * (1 + 0.02 * clouds(sheet, rng, 4))
    colour = tinted(level, varied(rng, (0.52, 0.43, 0.35), 0.05))
    return Surface(colour, (0.0028 * height).astype(np.float32), shine=0.10)


def wall_distance(rng: Generator, u: Plane, v: Plane) -> Plane:
    """Distance to the walls between cells that are grown from one random seed in each unit square."""
    aside = rng.uniform(0.08, 0.92, (2, 128, 128)).astype(np.float32)
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    first = np.full_like(u, np.inf)
    second = np.full_like(u, np.inf)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = row + down, column + right
            seed = (i & 127, j & 127)
            distance = np.hypot(j + aside[0][seed] - u, i + aside[1][seed] - v).astype(np.float32)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return np.asarray(second - first, dtype=np.float32)


def wood(sheet: Sheet, rng: Generator, gap: Gap | None) -> Surface:
    """Planed board with its grain along ``x``; in a gap the grain has slipped."""
    x, y = sheet.x, sheet.y
    if gap is not None:
        y = np.where(gap.inside(sheet) > 0, y + np.float32(0.02), y)
    bend = 0.35 * noise(rng, x * np.float32(1.2), y * np.float32(3)) + 0.03 * noise(rng, x * 5, y * 40)
    rings = y * np.float32(rng.uniform(11, 16)) + np.float32(rng.uniform(0, 9)) + bend
    year = np.mod(rings + 0.25 * noise(rng, rings * 0, rings), 1)
    late = np.where(year < 0.8, np.square(year / 0.8), (1 - year) / 0.2)
    pores = np.clip(noise(rng, x * 14, y * 260) - 1.1, 0, 1.5)
    fibres = noise(rng, x * 6, y * 170)
    level = 1 - 0.26 * late - 0.16 * pores + 0.04 * fibres + 0.03 * clouds(sheet, rng, 3)
    colour = tinted(level, varied(rng, (0.66, 0.49, 0.32), 0.05))
    colour[..., 2] *= 1 - 0.15 * late
    return Surface(colour, (0.0006 * fibres - 0.0012 * pores).astype(np.float32), shine=0.02)


@dataclass(frozen=True)
class Part:
    """One part of the circuit board: the middle of its body, and half its length and width."""

    x: float
    y: float
    half_length: float
    half_width: float
    upright: bool
    body: Colour
    pins: int


def layout() -> list[Part]:
    """The parts of the circuit board, which is the same in every picture."""
    rng = np.random.default_rng(LAYOUT_SEED)
    kinds = (
        (0.034, 0.017, (0.13, 0.13, 0.14), 1),
        (0.030, 0.019, (0.50, 0.38, 0.26), 1),
        (0.038, 0.030, (0.16, 0.16, 0.17), 4),
    )
    parts = []
    for row in range(CELLS):
        for column in range(CELLS):
            half_length, half_width, body, pins = kinds[int(rng.choice(3, p=(0.45, 0.3, 0.25)))]
            x = 0.5 + (column - (CELLS - 1) / 2) * CELL + rng.uniform(-0.02, 0.02)
            y = 0.5 + (row - (CELLS - 1) / 2) * CELL + rng.uniform(-0.02, 0.02)
            parts.append(Part(x, y, half_length, half_width, bool(rng.integers(2)), body, pins))
    return parts


class Drawing:
    """Colour and height of a flat drawing on the sheet, at three times the picture's size."""

    def __init__(self, sheet: Sheet, ground: Colour) -> None:
        self.sheet = sheet
        self.side = len(sheet.x)
        self.canvas = Image.new("RGB", (3 * self.side, 3 * self.side), eight_bit(ground))
        self.relief = Image.new("L", self.canvas.size, 0)

    def polygon(self, points: list[Point], colour: Colour, height: float) -> None:
        """Fill a polygon; ``height`` from 0 to 1."""
        corners = [self.place(point) for point in points]
        ImageDraw.Draw(self.canvas).polygon(corners, fill=eight_bit(colour))
        ImageDraw.Draw(self.relief).polygon(corners, fill=round(255 * height))

    def box(self, x: float, y: float, half_x: float, half_y: float, colour: Colour, height: float) -> None:
        """Fill a rectangle around its middle."""
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        self.polygon([(x + i * half_x, y + j * half_y) for i, j in signs], colour, height)

    def circle(self, x: float, y: float, radius: float, colour: Colour, height: float) -> None:
        """Fill a circle."""
        turns = np.linspace(0, 2 * math.pi, 20).tolist()
        corners = [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
        self.polygon(corners, colour, height)

    def line(self, points: list[Point], width: float, colour: Colour, height: float) -> None:
        """Draw a line through the points."""
        places, thick = [self.place(point) for point in points], round(3 * width * self.side)
        ImageDraw.Draw(self.canvas).line(places, eight_bit(colour), thick, joint="curve")
        ImageDraw.Draw(self.relief).line(places, round(255 * height), thick, joint="curve")

    def place(self, point: Point) -> Point:
        """A place of the sheet in pixels of the canvas."""
        right, down = self.sheet.seen_at(*point)
        return 3 * self.side * right, 3 * self.side * down

    def reduced(self) -> tuple[Plane, Plane]:
        """Colour (height, width, 3) and height (height, width) at the picture's size, from 0 to 1."""
        colour = np.asarray(self.canvas.reduce(3), dtype=np.float32) / np.float32(255)
        relief = self.relief.reduce(3).filter(ImageFilter.GaussianBlur(0.7))
        return colour, np.asarray(relief, dtype=np.float32) / np.float32(255)


def eight_bit(colour: Colour) -> tuple[int, int, int]:
    """A colour as Pillow takes it."""
    red, green, blue = (round(255 * min(max(part, 0), 1)) for part in colour)
    return red, green, blue


def circuit_board(sheet: Sheet, rng: Generator, gap: Gap | None) -> Surface:
    """Board of soldered parts, aligned but for the placing machine's play; in a gap a part is missing."""
    mask = varied(rng, (0.07, 0.24, 0.15), 0.05)
    drawing = Drawing(sheet, mask)
    track = (mask[0] + 0.05, mask[1] + 0.11, mask[2] + 0.06)
    draw_tracks(drawing, track)
    parts = layout()
    missing = None if gap is None else min(parts, key=lambda part: math.dist((part.x, part.y), gap.centre))
    for part in parts:
        draw_part(drawing, part, rng, mounted=part is not missing)
    colour, height = drawing.reduced()
    level = 1 + 0.03 * clouds(sheet, rng, 5) + 0.04 * clouds(sheet, rng, 120)
    return Surface(colour * level[..., None], 0.012 * height, shine=0.06)


def draw_tracks(drawing: Drawing, colour: Colour) -> None:
    """Draw the copper between the rows of parts, and its vias."""
    rng = np.random.default_rng(LAYOUT_SEED + 1)
    for row in range(CELLS + 1):
        middle = 0.5 + (row - CELLS / 2) * CELL
        for offset in (-0.022, -0.008, 0.006, 0.020):
            bend = rng.uniform(0.1, 0.9)
            step = float(rng.choice([-0.014, 0.0, 0.014]))
            y = middle + offset
            turn = bend + abs(step)
            points = [(-0.2, y), (bend, y), (turn, y + step), (1.2, y + step)]
            drawing.line(points, 0.006, colour, 0.03)
            drawing.line([(bend, y), (bend, y + rng.choice([-1, 1]) * 0.06)], 0.005, colour, 0.03)
            drawing.circle(bend, y, 0.008, (0.62, 0.54, 0.32), 0.05)
            drawing.circle(bend, y, 0.0035, (0.03, 0.05, 0.04), 0.0)


def draw_part(drawing: Drawing, part: Part, rng: Generator, mounted: bool) -> None:
    """Draw a part's pads, its solder and its body, a little aside; only the pads if it is not mounted."""
    play_x, play_y = rng.normal(0, 0.0012, 2).tolist()
    solder = varied(rng, (0.62, 0.62, 0.61), 0.06)
    body = varied(rng, part.body, 0.06)
    gold = (0.66, 0.56, 0.30)

    def box(along: float, across: float, length: float, width: float, colour: Colour, height: float) -> None:
        if part.upright:
            along, across, length, width = across, along, width, length
        drawing.box(part.x + along, part.y + across, length, width, colour, height)

    pitch = 2 * part.half_width / part.pins
    for side in (-1, 1):
        for pin in range(part.pins):
            across = (pin + 0.5) * pitch - part.half_width
            box(side * part.half_length, across, 0.010, 0.40 * pitch, gold, 0.05)
            if mounted:
                box(side * part.half_length * 0.98, across, 0.007, 0.33 * pitch, solder, 0.25)
    if mounted:
        x, y = (play_y, play_x) if part.upright else (play_x, play_y)
        box(x, y, part.half_length * 0.86, part.half_width * 0.95, body, 0.6)


SURFACES: dict[str, tuple[Maker, float]] = {
    "brushed_metal": (brushed_metal, 5),
    "woven_fabric": (woven_fabric, 10),
    "grained_plastic": (grained_plastic, 20),
    "circuit_board": (circuit_board, 1.5),
    "wood": (wood, 4),
}
"""How each surface is made, and how far it may be turned, in degrees to either side."""


# Defects.


def somewhere(rng: Generator) -> Point:
    """A place on the sheet that the picture shows."""
    return float(rng.uniform(0.12, 0.88)), float(rng.uniform(0.12, 0.88))


def pixel_of(sheet: Sheet, place: Point) -> tuple[int, int]:
    """Row and column of the pixel that shows a place of the sheet."""
    right, down = sheet.seen_at(*place)
    side = len(sheet.x)
    return min(max(int(down * side), 0), side - 1), min(max(int(right * side), 0), side - 1)


def wavering(rng: Generator, length: float, sway: float) -> list[Point]:
    """Nine points of a line somewhere on the sheet that strays to its sides by about ``sway``."""
    x, y = somewhere(rng)
    heading = rng.uniform(-math.pi, math.pi)
    along = np.linspace(-length / 2, length / 2, 9)
    aside = rng.normal(0, sway, 9)
    xs = x + along * math.cos(heading) - aside * math.sin(heading)
    ys = y + along * math.sin(heading) + aside * math.cos(heading)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def scratch(surface: Surface, sheet: Sheet, rng: Generator) -> None:
    """Score a thin line: a dark furrow with a bright lip."""
    distance = line_distance(sheet, wavering(rng, rng.uniform(0.04, 0.08), 0.0008))
    half_width = rng.uniform(0.0018, 0.0030)
    furrow = soft(half_width + sheet.pixel / 2 - distance, sheet.pixel)
    lip = soft(2 * half_width + sheet.pixel - distance, sheet.pixel) - furrow
    surface.height -= 0.002 * furrow
    mix(surface, (0.85, 0.85, 0.83), 0.45 * lip)
    mix(surface, (0.10, 0.10, 0.10), rng.uniform(0.5, 0.75) * furrow)


def pit(surface: Surface, sheet: Sheet, rng: Generator) -> None:
    """Leave a round hole."""
    radius = rng.uniform(0.007, 0.022)
    depth = disc(sheet, somewhere(rng), radius) + 0.1 * radius * clouds(sheet, rng, 0.8 / radius)
    surface.height -= np.clip(depth, 0, 0.006)
    mix(surface, (0.06, 0.06, 0.06), rng.uniform(0.55, 0.8) * soft(depth, 2 * sheet.pixel))


def stain(surface: Surface, sheet: Sheet, rng: Generator) -> None:
    """Leave a soft blotch of some liquid."""
    radius = rng.uniform(0.018, 0.034)
    depth = disc(sheet, somewhere(rng), radius) + 0.25 * radius * clouds(sheet, rng, 1 / radius)
    colours: tuple[Colour, ...] = ((0.12, 0.10, 0.07), (0.55, 0.42, 0.12), (0.70, 0.70, 0.68))
    mix(surface, colours[rng.integers(3)], rng.uniform(0.35, 0.55) * soft(depth, 0.6 * radius))


def particle(surface: Surface, sheet: Sheet, rng: Generator) -> None:
    """Let a grain of dirt, or a curl of fibre, lie on the surface."""
    if rng.integers(2):
        radius = rng.uniform(0.007, 0.020)
        depth = disc(sheet, somewhere(rng), radius) + 0.35 * radius * clouds(sheet, rng, 0.9 / radius)
    else:
        x, y = somewhere(rng)
        bend, turn = rng.uniform(0.015, 0.03), rng.uniform(0, 2 * math.pi)
        turns = np.linspace(turn, turn + 2.6, 10).tolist()
        arc = [(x + bend * math.cos(t), y + bend * math.sin(t)) for t in turns]
        depth = 0.0045 - line_distance(sheet, arc)
    colours: tuple[Colour, ...] = (
        (0.80, 0.79, 0.75),
        (0.14, 0.13, 0.12),
        (0.20, 0.27, 0.50),
        (0.50, 0.18, 0.14),
    )
    surface.height += np.clip(depth, 0, 0.005)
    mix(surface, colours[rng.integers(4)], 0.85 * soft(depth, 1.5 * sheet.pixel))


def crack(surface: Surface, sheet: Sheet, rng: Generator) -> None:
    """Split the surface along a jagged line with a branch."""
    length = rng.uniform(0.045, 0.08)
    trunk = wavering(rng, length, 0.05 * length)
    turn = rng.choice([-1, 1]) * 0.8
    (x0, y0), (x1, y1) = trunk[4], trunk[5]
    heading = math.atan2(y1 - y0, x1 - x0) + turn
    branch = [(x0, y0), (x0 + 0.35 * length * math.cos(heading), y0 + 0.35 * length * math.sin(heading))]
    distance: Plane = np.minimum(line_distance(sheet, trunk), line_distance(sheet, branch))
    half_width = rng.uniform(0.0018, 0.0030)
    opening = soft(half_width + sheet.pixel / 2 - distance, sheet.pixel)
    surface.height -= 0.003 * opening
    mix(surface, (0.05, 0.05, 0.05), rng.uniform(0.65, 0.85) * opening)


MISSING = "missing"
DEFECTS: dict[str, Defect | None] = {
    "scratch": scratch,
    "pit": pit,
    "stain": stain,
    MISSING: None,  # the surface itself is made with a gap
    "particle": particle,
    "crack": crack,
}


# Light and camera.


@dataclass(frozen=True)
class Camera:
    """What differs from one picture to the next though the surface is the same."""

    lamp: tuple[float, float, float]
    exposure: float
    falloff: Point
    tint: Colour
    blur: float
    noise: float


def random_sheet(rng: Generator, size: int, turn: float) -> Sheet:
    """Lay the surface under the camera, shifted and turned by up to ``turn`` degrees."""
    angle = math.radians(rng.uniform(-turn, turn))
    shift = (float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02)))
    rows, columns = (np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(0.5)) / np.float32(size)
    right, down = columns - np.float32(0.5 + shift[0]), rows - np.float32(0.5 + shift[1])
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y = right * cosine + down * sine, down * cosine - right * sine
    return Sheet(x + np.float32(0.5), y + np.float32(0.5), shift, angle, 1 / size)


def random_camera(rng: Generator) -> Camera:
    """Draw the circumstances of one picture."""
    azimuth, elevation = math.radians(rng.uniform(205, 245)), math.radians(rng.uniform(45, 58))
    level = math.cos(elevation)
    return Camera(
        lamp=(level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)),
        exposure=math.exp(rng.uniform(math.log(0.78), math.log(1.25))),
        falloff=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        tint=(1 + rng.uniform(-0.025, 0.025), 1.0, 1 + rng.uniform(-0.025, 0.025)),
        blur=rng.uniform(0.35, 0.65),
        noise=rng.uniform(0.006, 0.012),
    )


def lit(surface: Surface, sheet: Sheet, lamp: tuple[float, float, float]) -> Plane:
    """Colour of the surface under the lamp (height, width, 3); flat ground keeps its own."""
    down, right = np.gradient(surface.height / np.float32(sheet.pixel))
    length = np.sqrt(np.square(down) + np.square(right) + 1)
    diffuse = np.clip((lamp[2] - right * lamp[0] - down * lamp[1]) / length, 0, None) / lamp[2]
    facing = (1 + lamp[2] - right * lamp[0] - down * lamp[1]) / length / math.sqrt(2 + 2 * lamp[2])
    highlight = surface.shine * np.clip(facing, 0, 1) ** 30
    return np.asarray(surface.colour * (0.4 + 0.6 * diffuse)[..., None] + highlight[..., None], np.float32)


def seen(surface: Surface, sheet: Sheet, camera: Camera) -> Plane:
    """What reaches the camera (height, width, 3), in levels from 0 to 255, without its noise."""
    side = len(sheet.x)
    down, right = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    evenness = 1 + camera.falloff[0] * right + camera.falloff[1] * down - 0.06 * (right**2 + down**2)
    exposed = (
        lit(surface, sheet, camera.lamp) * (camera.exposure * evenness)[..., None] * np.asarray(camera.tint)
    )
    exposed = np.where(exposed < 0.75, exposed, 0.75 + 0.25 * np.tanh((exposed - 0.75) / 0.25))
    image = Image.fromarray(np.round(255 * np.clip(exposed, 0, 1)).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(camera.blur)), dtype=np.float32)


def noisy(levels: Plane, camera: Camera, rng: Generator) -> Image.Image:
    """The picture that the camera gives of what reaches it."""
    grain = rng.standard_normal(levels.shape, dtype=np.float32)
    strength = 255 * camera.noise * (0.5 + np.sqrt(levels / 255))
    return Image.fromarray(np.round(np.clip(levels + strength * grain, 0, 255)).astype(np.uint8))


def good_picture(name: str, size: int, seed: list[int]) -> Image.Image:
    """A picture of a good piece."""
    sheet_rng, camera_rng, surface_rng, noise_rng, _ = np.random.default_rng(seed).spawn(5)
    maker, turn = SURFACES[name]
    sheet, camera = random_sheet(sheet_rng, size, turn), random_camera(camera_rng)
    return noisy(seen(maker(sheet, surface_rng, None), sheet, camera), camera, noise_rng)


def bad_picture(name: str, kind: str, size: int, seed: list[int]) -> tuple[Image.Image, Image.Image]:
    """A picture of a piece with one defect, and its mask; a defect that does not show is drawn again."""
    sheet_rng, camera_rng, surface_rng, noise_rng, defect_rng = np.random.default_rng(seed).spawn(5)
    maker, turn = SURFACES[name]
    sheet, camera = random_sheet(sheet_rng, size, turn), random_camera(camera_rng)
    surface_seed = int(surface_rng.integers(2**32))
    good = seen(maker(sheet, np.random.default_rng(surface_seed), None), sheet, camera)
    while True:
        gap = Gap(somewhere(defect_rng), float(defect_rng.uniform(0.02, 0.04))) if kind == MISSING else None
        surface = maker(sheet, np.random.default_rng(surface_seed), gap)
        defect = DEFECTS[kind]
        if defect is not None:
            defect(surface, sheet, defect_rng)
        flawed = seen(surface, sheet, camera)
        visible = np.abs(flawed - good).max(axis=2) >= VISIBLE
        if visible.sum() >= 4:
            white = Image.fromarray(visible.astype(np.uint8) * np.uint8(255))
            mask = white.filter(ImageFilter.MaxFilter(2 * MASK_MARGIN + 1)).convert("1")
            return noisy(flawed, camera, noise_rng), mask


# Files.


def write_good(folder: Path, name: str, size: int, seed: list[int], count: int) -> None:
    """Write pictures of good pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        good_picture(name, size, [*seed, index]).save(folder / f"{index:03d}.png", compress_level=1)


def write_bad(folder: Path, name: str, size: int, seed: list[int], count: int) -> None:
    """Write pictures of pieces with a defect, the kinds in turn, and their masks."""
    pictures, masks = folder / "incoming" / "bad", folder / "masks"
    pictures.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    kinds = list(DEFECTS)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        picture, mask = bad_picture(name, kind, size, [*seed, index])
        file = f"{kind}_{index // len(kinds):03d}.png"
        picture.save(pictures / file, compress_level=1)
        mask.save(masks / file)


def main() -> None:
    """Write the surfaces."""
    parser = argparse.ArgumentParser(description="Draw industrial surfaces with small known defects.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--surfaces", nargs="+", choices=list(SURFACES), default=list(SURFACES))
    parser.add_argument("--normals", type=int, default=120)
    parser.add_argument("--good", type=int, default=60)
    parser.add_argument("--bad", type=int, default=60)
    parser.add_argument("--size", type=int, default=320, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for number, name in enumerate(SURFACES):
        if name not in arguments.surfaces:
            continue
        folder, seed, size = arguments.out / name, [arguments.seed, number], arguments.size
        write_good(folder / "normal", name, size, [*seed, 0], arguments.normals)
        write_good(folder / "incoming" / "good", name, size, [*seed, 1], arguments.good)
        write_bad(folder, name, size, [*seed, 2], arguments.bad)
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
