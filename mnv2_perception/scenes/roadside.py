"""Draw what stands beside the road: buildings, fences, hedges, trees, posts and signs."""

from collections.abc import Sequence

import numpy as np

from mnv2_perception.scenes.canvas import Bytes, Canvas, disc, mesh_of, NEAR_M, Part, rect
from mnv2_perception.scenes.classes import BUILDING, POLE, SIGN, TREE
from mnv2_perception.scenes.colours import Colour
from mnv2_perception.scenes.layout import Building, Thing
from mnv2_perception.scenes.textures import crown, crown_of_size, facade_texture

_FACADE_PX_PER_M = 14


def draw_wall(canvas: Canvas, x: float, z0: float, z1: float, height_m: float,
              texture: Bytes, light: float | Sequence[float], class_id: int) -> None:
    """Draw a textured wall along the road from z0 to z1; the part behind the camera is cut off."""
    near = max(z0, NEAR_M + 0.2)
    cut = int((near - z0) / (z1 - z0) * texture.shape[1])
    if cut >= texture.shape[1] - 1:
        return
    corners = np.array([[x, height_m, near], [x, height_m, z1], [x, 0, z1], [x, 0, near]])
    canvas.surface(corners, texture[:, cut:], light, class_id)


def draw_building(canvas: Canvas, b: Building, x: float, z0: float, z1: float,
                  side: int) -> None:
    drive = canvas.drive
    shaded = drive.sunny and side == drive.sun_side
    light = 0.68 if shaded else (1.12 if drive.sunny else 0.92)
    deep, ridge = x + side * 9.0, x + side * 4.5
    top, peak = b.height_m, b.height_m + b.roof_m
    facade = facade_texture(b.look, b.end_m - b.start_m, b.height_m, b.storeys, b.shops,
                            _FACADE_PX_PER_M if z0 < 40 else _FACADE_PX_PER_M // 2)
    gable = [c * (0.72 if shaded else 0.8) for c in facade[5, 1].tolist()]
    near = max(z0, NEAR_M + 0.2)
    if z0 > near - 0.01 and b.shown_m < top:
        front = facade[:, :max(int(facade.shape[1] * 0.6), 2)]
        corners = np.array([[x, top, z0], [deep, top, z0], [deep, 0, z0], [x, 0, z0]])
        canvas.surface(corners, front, light * 0.85, BUILDING)
    if b.roof_m:
        roof = [c * (0.8 if shaded else 1.05) for c in b.roof]
        eaves = x - side * 0.2
        parts: list[Part] = [
            (np.array([[x, top - 0.2, near], [ridge, peak, near], [deep, top - 0.2, near]]),
             gable),
            (np.array([[eaves, top, near], [ridge, peak, near], [ridge, peak, z1],
                       [eaves, top, z1]]), roof)]
        at = near + b.chimney * (z1 - near) * 0.8
        for z, tone in ((at + 1.2, 0.75), (at, 0.9)):
            parts.append((np.array([[ridge - 0.4, peak - 0.8, z], [ridge - 0.4, peak + 1.1, z],
                                    [ridge + 0.4, peak + 1.1, z], [ridge + 0.4, peak - 0.8, z]]),
                          [c * tone for c in gable]))
        canvas.fill(mesh_of(parts), 0, 0, BUILDING)
    draw_wall(canvas, x, z0, z1, top, facade, light, BUILDING)


def _leaf_light(canvas: Canvas, look: int) -> list[float]:
    tone = (0.8 + 0.12 * (look % 4)) * (1.0 if canvas.drive.sunny else 0.9) / 128
    return [c * tone for c in canvas.drive.leaf]


def draw_hedge(canvas: Canvas, x: float, z0: float, z1: float) -> None:
    leaves = np.tile(crown(0)[0][50:110, 30:130], (1, 6, 1))
    draw_wall(canvas, x, z0, z1, 2.6, leaves, _leaf_light(canvas, 0), TREE)


def draw_tree(canvas: Canvas, tree: Thing, z: float) -> None:
    x, h = tree.x_m, tree.height_m
    trunk = 0.09 + 0.018 * h
    if z < 40:
        canvas.shade(x, z - 0.5, z + 1.2, 1.6, 0.8)
    bark: Colour = (74, 62, 52)
    canvas.figure(x, z, [(np.array([[-trunk, 0], [-trunk * 0.6, h * 0.6], [trunk * 0.6, h * 0.6],
                                    [trunk, 0]]), bark)], TREE)
    seen_px = canvas.focal_px * h * 0.8 / z
    size = next((side for side in (20, 40, 80) if side >= seen_px), 160)
    colours, alpha = crown_of_size(tree.look, size)
    half = h * 0.36
    low = h * 0.22 if tree.kind == 0 else max(h * 0.3, 2.0)
    corners = np.array([[x - half, h, z], [x + half, h, z], [x + half, low, z],
                        [x - half, low, z]])
    canvas.surface(corners, colours, _leaf_light(canvas, tree.look), TREE, alpha)


def draw_post(canvas: Canvas, post: Thing, z: float, side: int) -> None:
    steel: Colour = (106, 110, 112) if post.kind == 0 else (58, 66, 62)
    h = post.height_m
    if post.kind == 2:
        canvas.figure(post.x_m, z, [(rect(-0.07, 0, 0.07, h), (48, 48, 50)),
                                    (rect(-0.075, h * 0.75, 0.075, h * 0.85), (220, 220, 215))],
                      POLE)
        return
    reach = -side * 1.6
    canvas.figure(post.x_m, z, [
        (rect(-0.1, 0, 0.1, 1.2), steel),
        (np.array([[-0.075, 1.2], [-0.05, h], [0.05, h], [0.075, 1.2]]), steel),
        (np.array([[0, h - 0.08], [0, h + 0.04], [reach, h + 0.34], [reach, h + 0.24]]), steel),
        (np.array([[reach - 0.3, h + 0.2], [reach - 0.3, h + 0.38], [reach + 0.3, h + 0.38],
                   [reach + 0.3, h + 0.2]]), (150, 152, 150))], POLE)


def draw_sign(canvas: Canvas, sign: Thing, z: float) -> None:
    h = sign.height_m
    red: Colour = (186, 30, 36)
    white: Colour = (226, 226, 222)
    blue: Colour = (28, 76, 158)
    top = h + 0.4 if sign.kind != 4 else h + 0.7
    canvas.figure(sign.x_m, z, [(rect(-0.04, 0, 0.04, top), (120, 122, 122))], POLE)
    triangle = np.array([[-0.45, -0.3], [0, 0.48], [0.45, -0.3]])
    face: list[Part]
    if sign.kind == 0:
        face = [(disc(0, h, 0.38), red), (disc(0, h, 0.28), white),
                (rect(-0.13, h - 0.12, 0.13, h + 0.12), (40, 40, 42))]
    elif sign.kind == 1:
        face = [(triangle + np.array((0, h)), red), (triangle * 0.62 + np.array((0, h)), white),
                (rect(-0.03, h - 0.1, 0.03, h + 0.12), (40, 40, 42))]
    elif sign.kind == 2:
        face = [(rect(-0.4, h - 0.3, 0.4, h + 0.5), white), (rect(-0.37, h - 0.27, 0.37, h + 0.47),
                                                             blue),
                (rect(-0.1, h - 0.15, 0.1, h + 0.3), white)]
    elif sign.kind == 3:
        face = [(rect(-0.6, h - 0.25, 0.6, h + 0.35), (30, 96, 62)),
                (rect(-0.5, h + 0.12, 0.45, h + 0.2), white),
                (rect(-0.5, h - 0.08, 0.3, h), white)]
    else:
        lit = int(canvas.time_s / 6 + sign.look) % 3
        lamps: Sequence[Colour] = ((50, 210, 120), (240, 170, 40), (235, 50, 40))
        face = [(rect(-0.19, h - 0.35, 0.19, h + 0.65), (32, 34, 34))]
        face += [(disc(0, h - 0.18 + 0.3 * i, 0.11),
                  lamp if i == lit else (lamp[0] * 0.25, lamp[1] * 0.25, lamp[2] * 0.25))
                 for i, lamp in enumerate(lamps)]
    canvas.figure(sign.x_m, z, face, SIGN)
