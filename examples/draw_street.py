"""Draw street layouts to render: label maps of invented streets in true perspective.

A street is modelled in three dimensions (sizes are those of real things, chance places them, no
data set is copied), seen by a pinhole camera behind a windscreen, and painted back to front. The
same scene, seed and size give the same pixels. With --frames the camera drives on. A PNG is mode P:
a pixel's index is its CamVid class id, and the palette is CamVid's colours.

    python examples/draw_street.py --scene town --seed 7 --size 1024x2048 -o street.png
    python examples/draw_street.py --scene boulevard --frames 100 -o frames/
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import cos, hypot, pi, sin
from pathlib import Path
from random import Random
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
COLOURS = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0 000000"
"""Of each id in turn, as hexadecimal R, G, B; the last, 11, is void, which nothing here is."""
SPEED, FPS, REACH, EYE, LANE, HORIZON = 8.0, 25, 260.0, 1.3, -1.75, 0.48
"""Metres and frames a second; metres of street drawn ahead of the camera; the camera's height and
way right of the middle, in metres; and how far down the picture the horizon is."""
Array = NDArray[np.float64]
Row = tuple[float, ...]
Pose = Callable[[float], "list[Part]"]  # of metres moved, on which the legs of people depend


class Part(NamedTuple):
    """The convex hull of points [n, 3], metres forward, right, up; or a ball of leaves."""

    points: Array
    label: int
    radius: float = 0.0


def table(text: str) -> list[Row]:
    return [tuple(map(float, row.split())) for row in text.split(",")]


def loft(label: int, sections: Sequence[Row], squareness: float = 2.0) -> list[Part]:
    """A skin over sections (up, rear, front, half-width): ellipses if 2, nearly boxes if 8."""
    angle = np.linspace(0, 2 * pi, 20, endpoint=False) + pi / 20
    c, s = (np.sign(v) * np.abs(v) ** (2 / squareness) for v in (np.cos(angle), np.sin(angle)))
    up, rear, front, half = np.array(sections).T[:, :, None]
    x, y, z = np.broadcast_arrays((rear + front + (front - rear) * c) / 2, half * s, up)
    rings = np.stack([x, y, z], axis=2)
    return [Part(np.concatenate(pair), label) for pair in pairwise(rings)]


def box(label: int, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float) -> Part:
    return Part(np.array([(x, y, z) for x in (x0, x1) for y in (y0, y1) for z in (z0, z1)]), label)


def rod(label: int, start: Row, end: Row) -> Part:
    """A limb, bar or pole between two points (forward, right, up, radius)."""
    ends, cube = np.array([start, end]), box(0, -0.6, 0.6, -0.6, 0.6, -0.6, 0.6).points
    ball = np.concatenate([np.eye(3), -np.eye(3), cube])
    return Part((ends[:, None, :3] + ends[:, None, 3:] * ball).reshape(-1, 3), label)


def wheel(label: int, x: float, y: float, radius: float, width: float) -> Part:
    turn = np.linspace(0, 2 * pi, 24)
    c, s = radius * np.cos(turn), radius * np.sin(turn)
    rim = np.stack([x + c, 0 * c + y, radius + s], axis=1)
    return Part(np.concatenate([np.add(rim, (0, side * width, 0)) for side in (-0.5, 0.5)]), label)


BODIES = {
    "hatchback": """.15 -1.9 1.9 .78, .3 -2 2.03 .83, .6 -2.02 2.03 .85, .78 -1.99 1.92 .84,
        .95 -1.93 .95 .81, 1.2 -1.75 .5 .71, 1.37 -1.5 .1 .6, 1.43 -1.2 -.1 .46""",
    "saloon": """.15 -2.15 2.15 .8, .3 -2.25 2.27 .86, .6 -2.27 2.27 .88, .78 -2.24 2.12 .87,
        .95 -2.12 1.05 .84, 1 -1.6 .95 .8, 1.22 -1.25 .5 .7, 1.36 -.85 .1 .6, 1.41 -.6 -.1 .46""",
    "offroad": """.22 -2.15 2.15 .86, .45 -2.25 2.27 .91, .75 -2.27 2.27 .93, 1 -2.25 2.15 .92,
        1.14 -2.2 1.05 .89, 1.45 -2.05 .6 .8, 1.66 -1.85 .25 .7, 1.74 -1.6 0 .58""",
    "van": """.2 -2.4 2.4 .9, .45 -2.45 2.5 .96, .95 -2.45 2.46 .97, 1.15 -2.45 2.1 .96,
        1.75 -2.42 1.45 .9, 2.1 -2.36 1.15 .84, 2.2 -2.2 .9 .74""",
}
TRUNK = """.8 -.12 .12 .165, 1.08 -.11 .11 .15, 1.34 -.12 .12 .19, 1.43 -.08 .09 .13, 1.49 -.04 .08
    .055, 1.58 -.07 .13 .08, 1.67 -.08 .14 .085, 1.72 -.06 .12 .07, 1.76 0 .06 .03"""
"""Sections of vehicles, and of people from the hips up, for `loft`."""


def vehicle(rng: Random) -> list[Part]:
    body = table(BODIES[rng.choices(list(BODIES), (4.0, 3.0, 1.5, 1.2))[0]])
    low, (_, _, length, width), sill = body[0][0], body[2], body[-4][0]
    mirrors = box(CAR, 0.3 * length, 0.34 * length, -width - 0.05, width + 0.05, sill, sill + 0.12)
    parts = [mirrors, *loft(CAR, body, 5)]
    for x in (-0.61 * length, 0.64 * length):
        parts += [wheel(CAR, x, y, 0.21 + 0.6 * low, 0.2) for y in (0.13 - width, width - 0.13)]
    return parts


def person(rng: Random, label: int) -> Pose:
    """Someone on foot, or on a bicycle where `label` says so."""
    start, riding = rng.uniform(0, 2 * pi), label == BICYCLIST
    lean, size = rng.uniform(0.2, 0.6) * riding, rng.uniform(0.88, 1.06)
    trunk = [(z, a + lean * (z - 1.2), b + lean * (z - 1.2), w) for z, a, b, w in table(TRUNK)]
    body = loft(label, trunk)
    if riding:
        body += [wheel(label, x, 0, 0.34, 0.05) for x in (-0.62, 0.48)]
        body.append(rod(label, (-0.6, 0, 0.35, 0.04), (0.35, 0, 1, 0.04)))

    def pose(moved: float) -> list[Part]:
        parts = list(body)
        for y in (-0.1, 0.1):
            phase = start + moved * (1.2 if riding else 4.2) + 5 * pi * y
            c, s = cos(phase), sin(phase)
            leg = [(0, 0.84), (0.16 * s + 0.04, 0.48), (0.3 * s, 0.07 + 0.1 * max(c, 0))]
            arm = [(0, 1.34), (-0.1 * s, 1.08), (0.08 - 0.24 * s, 0.8)]
            if riding:
                leg = [(-0.2, 0.9), (0.2 + 0.05 * c, 0.68 + 0.1 * s), (0.17 * c, 0.3 + 0.17 * s)]
                arm = [(0.15 * lean, 1.34), (0.2, 1.15), (0.3, 1.05)]
            leg.append((leg[2][0] + 0.14, leg[2][1] - 0.03))
            for joints, out, thick in ((leg, y, 0.09), (arm, 1.95 * y, 0.06)):
                bones = pairwise((x, out, z, thick * 0.8**i) for i, (x, z) in enumerate(joints))
                parts += [rod(label, *bone) for bone in bones]
        return [Part(part.points * size, label) for part in parts]

    return pose


def tree(rng: Random) -> list[Part]:
    """Trunk, boughs and a crown of four lobes of ragged balls."""
    height, share = rng.uniform(7, 14), rng.uniform(0.22, 0.34)
    base, half, thick = height * share, height * (1 - share) / 2, 0.018 * height + 0.02
    reach = half * rng.uniform(0.5, 0.95)
    waist = (0, 1.5), (0.12, 1.2), (0.5, 1.0), (base, 0.85), (base + half, 0.5)
    parts = loft(TREE, [(up, -thick * wide, thick * wide, thick * wide) for up, wide in waist])
    for _ in range(4):
        x, y, z = (rng.uniform(-0.35, 0.35) for _ in "xyz")
        tip = (x * reach * 1.6, y * reach * 1.6, base + half * (1 + z), thick * 0.2)
        parts.append(rod(TREE, (0, 0, base * 0.85, thick * 0.5), tip))
        for _ in range(16):
            angle, tilt, far = rng.uniform(0, 2 * pi), rng.uniform(-1, 1), rng.uniform(0.32, 0.76)
            flat, up = far * (1 - tilt * tilt) ** 0.5, base + half * (1 + z + 0.8 * tilt * far)
            at = x + flat * cos(angle), y + flat * sin(angle), max(up, base * 0.9) / reach
            parts.append(Part(reach * np.array([at]), TREE, reach * rng.uniform(0.12, 0.32)))
    return parts


def house(rng: Random, length: float, depth: float, height: float) -> list[Part]:
    """A building with its front on y = 0, from x = 0 to `length`, that reaches back to `depth`."""
    roof, wide = rng.choice(("ridge", "ridge", "gable", "flat")), rng.uniform(0.7, 1.3)
    top, at = height + min(depth, length) * rng.uniform(0.28, 0.42), length * rng.uniform(0.1, 0.6)
    walls = box(BUILDING, 0, length, 0, depth, 0, height)
    if roof == "flat":
        return [walls, box(BUILDING, -0.1, length + 0.1, -0.3, depth, height - 0.5, height + 0.3)]
    ridge = [(0, depth / 2, top), (length, depth / 2, top)]
    if roof == "gable":
        ridge = [(length / 2, 0, top), (length / 2, depth, top)]
    eaves = box(BUILDING, -0.15, length + 0.15, -0.4, 0.2, height - 0.3, height)
    parts = [Part(np.concatenate([walls.points, ridge]), BUILDING), eaves]
    for x in rng.sample((0.05 * length, at, 0.9 * length), rng.choice((0, 1, 1, 2))):
        parts.append(box(BUILDING, x, x + wide, depth * 0.4, depth * 0.5, height, top + wide))
        parts.append(box(BUILDING, x, x + 0.3, depth * 0.4, depth * 0.43, top, top + wide + 0.4))
    return parts


def lamp(rng: Random) -> list[Part]:
    """A street lamp; its arm reaches right."""
    top, arm = rng.uniform(6.5, 9), rng.uniform(0.9, 1.8)
    knots = (0, 0, 0, 0.1), (0, 0, 1.3, 0.085), (0, 0, 1.5, 0.06), (0, 0, top, 0.04)
    parts = [rod(POLE, *ends) for ends in pairwise((*knots, (0, arm, top + 0.25, 0.04)))]
    return [*parts, box(POLE, -0.15, 0.15, arm - 0.1, arm + 0.6, top + 0.18, top + 0.36)]


def traffic_sign(rng: Random) -> list[Part]:
    top, size = rng.uniform(2.3, 3.1), rng.uniform(0.28, 0.4)
    sides, turn = rng.choice(((20, 0.0), (20, 0.0), (3, 0.0), (4, pi / 4), (3, pi)))
    angle = turn + np.arange(sides) * 2 * pi / sides
    plate = np.stack([0 * angle - 0.05, size * np.sin(angle), top + size * np.cos(angle)], axis=1)
    text = box(SIGN, -0.06, -0.04, -0.7 * size, 0.7 * size, top - 0.8, top - 0.5)
    pole = rod(POLE, (0, 0, 0, 0.045), (0, 0, top + 0.2, 0.045))
    return [pole, Part(plate, SIGN), text][: rng.choice((2, 3))]


class Scene(NamedTuple):
    """What a street is made of, in metres."""

    half: float  # from the middle to a kerb
    pavement: float
    garden: float  # between the pavement and the house fronts
    storeys: int  # of the tallest houses; the lowest have 2
    front: float  # mean width of a house
    gap: float  # probability of a gap after a house, with a tree behind it
    trees: float  # mean distance between trees at the kerb
    parked: float  # probability that a parking place is taken
    people: float  # mean distance between groups of people


SCENES = {
    "boulevard": Scene(6.0, 4.2, 2.0, 4, 16.0, 0.25, 13, 0.4, 14),
    "town": Scene(4.6, 2.8, 0.0, 4, 9.0, 0.15, 70, 0.3, 11),
    "suburb": Scene(4.7, 2.4, 5.0, 2, 11.0, 0.75, 34, 0.25, 26),
    "terrace": Scene(4.8, 2.1, 1.6, 3, 5.2, 0.04, 55, 0.6, 22),
}


class Thing(NamedTuple):
    """Something at (s, t): metres along the street, and right of its middle."""

    s: float
    t: float
    parts: list[Part] | Pose
    speed: float = 0.0
    flip: tuple[int, int] = (1, 1)  # -1: its forward is back along the street, its right is left
    reach: float = 0.0  # how far beyond s it extends: what extends farthest is painted first


class Street:
    """A scene's course, side roads (mouths: side and middle) and things, to `length` metres."""

    def __init__(self, name: str, seed: int, length: float) -> None:
        self.name, self.seed, self.length, self.scene = name, seed, length, SCENES[name]
        rng = Random(f"{name} {seed}")
        self.swing, self.start = rng.uniform(-6, 6), rng.uniform(0, 6)
        self.mouths = [(rng.choice((-1, 1)), s) for s, rng in self._row("mouths", 75)]
        self.things = [*self._side(-1), *self._side(1), *self._middle()]

    def course(self, s: Array) -> Array:
        """How far right of straight ahead the middle of the street is."""
        return np.asarray(self.swing * np.sin(s / 60 + self.start))

    def kerb(self, side: int, s: Array) -> Array:
        """Distance of the kerb from the middle: open, with round corners, at side roads."""
        away = [np.abs(s - at) - 3.5 for where, at in self.mouths if where == side]
        near = np.clip(np.min([*away, 0 * s + 4], axis=0), 0, 4)
        corner = 4 - np.sqrt(16 - (4 - near) ** 2)
        return np.asarray(self.scene.half + corner + 60 * (near == 0))

    def _open(self, side: int, begin: float, end: float) -> bool:
        return not any(where == side and begin < at < end for where, at in self.mouths)

    def _row(self, name: str, gap: float, start: float = 10.0) -> Iterator[tuple[float, Random]]:
        # Each row has a stream of its own, so that a longer street begins as a shorter one does.
        rng = Random(f"{self.name} {self.seed} {name}")
        at = start + rng.uniform(0, gap)
        while at < self.length:
            yield at, rng
            at += gap * rng.uniform(0.7, 1.3)

    def _side(self, side: int) -> Iterator[Thing]:
        """What stands along one kerb."""
        scene, half, fence = self.scene, self.scene.half, self.scene.half + self.scene.pavement
        end = -9.0
        for s, rng in self._row(f"houses {side}", 1, end):
            length, low = scene.front * rng.uniform(0.6, 1.4), rng.uniform(0.9, 1.5)
            if s < end or not self._open(side, s - 5, s + length + 5):
                continue
            height = rng.randint(2, scene.storeys) * rng.uniform(2.8, 3.2) + 0.6 * low
            parts, bound = house(rng, length, rng.uniform(9, 13), height), rng.random()
            if not scene.garden and bound < 0.35:
                parts.append(box(SIGN, 2, 2.12, -0.95, -0.15, low + 1.8, low + 2.5))
            setback = fence + scene.garden * rng.uniform(1, 1.15)
            yield Thing(s, side * setback, parts, 0, (1, side), length)
            if scene.garden and bound < 0.85:
                front = [box(FENCE, 0, length, 0, 0.08, 0, low)]
                if bound > 0.4:
                    tops = [(i / 2, 0.0, rng.uniform(0.5, 0.7)) for i in range(int(2 * length))]
                    front = [Part(np.array([top]), TREE, top[2] * 0.7) for top in tops]
                    front.append(box(TREE, 0, length, -0.3, 0.3, 0, 0.8))
                yield Thing(s, side * (fence + 0.3), front, 0, (1, side), length - 0.1)
            end = s + length + (rng.uniform(2, 6) if rng.random() < scene.gap else 0)
            if end > s + length:
                yield Thing(end, side * (fence + rng.uniform(18, 27)), tree(rng), reach=25)
        posts = (lamp, 34.0, 0.45), (traffic_sign, 22.0, 0.6), (tree, scene.trees, 0.9)
        for shape, gap, out in posts:
            for s, rng in self._row(f"{shape.__name__} {side}", gap):
                if self._open(side, s - 6.5, s + 6.5):
                    yield Thing(s, side * (half + out), shape(rng), flip=(1, -side))
        for s, rng in self._row(f"people {side}", scene.people):
            way = rng.choice((-1, 1))
            for _ in range(rng.choice((1, 1, 2, 3))):
                t, at = half + rng.uniform(0.6, scene.pavement - 0.4), s + rng.uniform(-0.8, 0.8)
                yield Thing(at, side * t, person(rng, PEDESTRIAN), way * 1.3, (way, 1))
        for s, rng in self._row(f"parked {side}", 6.2):
            if rng.random() < scene.parked and self._open(side, s - 9, s + 9):
                yield Thing(s, side * (half - 1.1), vehicle(rng), 0, (rng.choice((-1, 1)), 1), -1)

    def _middle(self) -> Iterator[Thing]:
        """The traffic, and a backdrop that keeps ahead, so that no end of the street shows."""
        for s, rng in self._row("oncoming", 30, 20):
            yield Thing(s, -LANE - 0.2, vehicle(rng), -SPEED, (-1, 1))
        for s, rng in self._row("riders", 40):
            way = rng.choice((-1, 1))
            yield Thing(s, -2.9 * way, person(rng, BICYCLIST), way * 4.5, (way, 1))
        s, rng = next(self._row("ahead", 18, 20))
        yield Thing(s, LANE, vehicle(rng), SPEED)
        for t in range(-170, 170, 12):
            parts = house(rng, 12, rng.uniform(12, 20), rng.uniform(4, 12))
            if rng.random() < 0.5:
                parts = [*tree(rng), box(TREE, 0, 1, -8, 14, 0, rng.uniform(3, 6))]
            yield Thing(REACH, t, parts, SPEED)


class Camera:
    """A pinhole camera that has driven along a street for some seconds."""

    def __init__(self, street: Street, time: float, height: int, width: int) -> None:
        self.street, self.time, self.height, self.width = street, time, height, width
        self.s, self.focal = SPEED * time, max(height, width)
        here, ahead = street.course(np.array([self.s, self.s + 25]))
        self.t, run = here + LANE, hypot(25, ahead - here)
        self.sin, self.cos = (ahead - here) / run, 25 / run

    def project(self, points: Array) -> Array:
        """Metres (s, t, up) [n, 3] to pixels x, y and metres of depth, at least 0.4 [n, 3]."""
        s, t, up = points.T
        along, across = s - self.s, t + self.street.course(s) - self.t
        depth = np.maximum(along * self.cos + across * self.sin, 0.4)
        x = self.width / 2 + self.focal * (across * self.cos - along * self.sin) / depth
        return np.stack([x, HORIZON * self.height - self.focal * (up - EYE) / depth, depth], axis=1)

    def paint(self) -> Image.Image:
        """The label map: ids, mode P."""
        image = Image.new("P", (self.width, self.height), SKY)
        image.putpalette(bytes.fromhex(COLOURS))
        draw, scene = ImageDraw.Draw(image), self.street.scene
        below = (0, round(HORIZON * self.height), self.width, self.height)
        draw.rectangle(below, fill=TREE if scene.garden > 4 else PAVEMENT)
        s = self.s + np.arange(0.5, REACH, 0.25)
        paved = scene.pavement + (scene.garden if scene.garden < 4 else 0)
        for more, label in ((paved, PAVEMENT), (0, ROAD)):
            sides = [side * (self.street.kerb(side, s) + more) for side in (-1, 1)]
            edges = [self.project(np.stack([s, t, 0 * s], axis=1))[:, :2] for t in sides]
            draw.polygon(np.concatenate([edges[0], edges[1][::-1]]).ravel().tolist(), fill=label)
        placed = [(thing.s + thing.speed * self.time, thing) for thing in self.street.things]
        seen = [(at, thing) for at, thing in placed if -5 - thing.reach < at - self.s <= REACH]
        for at, thing in sorted(seen, key=lambda it: (-it[0] - it[1].reach, -abs(it[1].t))):
            moved = abs(thing.speed) * self.time
            for part in thing.parts(moved) if callable(thing.parts) else thing.parts:
                points = self.project(part.points * (*thing.flip, 1) + (at, thing.t, 0))
                size = self.focal * part.radius / points[0, 2]
                outline = rim(points[0], part.radius, size) if part.radius else hull(points)
                if points[:, 2].max() > 1:
                    draw.polygon(outline[:, :2].ravel().tolist(), fill=part.label)
        return image


def rim(centre: Array, seed: float, size: float) -> Array:
    """The ragged outline of a ball of foliage of `size` pixels; its radius serves as the seed."""
    angle = np.linspace(0, 2 * pi, int(np.clip(size * 2, 12, 200)))[:, None]
    waves = np.array([2, 3, 5, 8, 13, 21, 34])
    ragged = np.sin(angle * waves + 1e4 * seed * waves**2) @ (0.13 / waves**0.5)
    circle = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(centre[:2] + size * (1 + ragged[:, None]) * circle)


def hull(points: Array) -> Array:
    """The convex hull, as the points that lie farthest in each of 360 directions."""
    turn = np.linspace(0, 2 * pi, 360)
    return np.asarray(points[np.argmax(points[:, :2] @ [np.cos(turn), np.sin(turn)], axis=0)])


def picture_size(context: object, option: object, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{2,4})x([0-9]{2,4})", text)
    height, width = map(int, match.groups()) if match else (0, 0)
    if not (16 <= height <= 8192 and 16 <= width <= 8192):
        raise click.BadParameter(f"{text[:40]!r}; expected HEIGHTxWIDTH, each from 16 to 8192")
    return height, width


@click.command(help=f"\b\n{__doc__}".replace("\n\n", "\n\n\b\n"))
@click.option("--scene", type=click.Choice(list(SCENES)), default="town", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--size", callback=picture_size, default="1024x2048", show_default=True)
@click.option("--frames", type=click.IntRange(1, 9999), help="Draw so many, 25 a second.")
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, help="PNG, or a folder.")
def main(scene: str, seed: int, size: tuple[int, int], frames: int | None, out: Path) -> None:
    street = Street(scene, seed, 1.2 * REACH + 2 * SPEED * (frames or 1) / FPS)
    for i in range(frames or 1):
        path = out / f"{i:05}.png" if frames else out
        part = path.parent / f".{path.name}.{os.getpid()}"
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            Camera(street, i / FPS, *size).paint().save(part, "PNG", optimize=True)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        print(path)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (click.ClickException, OSError) as error:
        reason = error.format_message() if isinstance(error, click.ClickException) else error
        click.echo(f"draw_street: {reason}", err=True)
        raise SystemExit(2) from None
