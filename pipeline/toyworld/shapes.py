"""Object shapes and colours of the toy world. Knows outlines and distances, not scenes."""

from functools import cache

import numpy as np

ROUND = ("circle", "ring", "oval", "flower", "clover", "peanut")
CORNERED = ("triangle", "square", "star", "cross", "arrow", "bolt")
SHAPES = ROUND + CORNERED

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 50),
    "green": (40, 165, 60),
    "cyan": (50, 205, 215),
    "blue": (45, 75, 215),
    "purple": (150, 50, 180),
    "white": (245, 245, 245),
}
COLOUR_NAMES = tuple(COLOURS)

# Tables of distances span [-EXTENT, EXTENT] squared, in units of the object's radius, on TABLE x TABLE points.
EXTENT, TABLE = 1.9, 192


def _polar(radius: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _outlines(shape: str) -> list[np.ndarray]:
    """Closed loops of (x, y) corners; a second loop is a hole."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    match shape:
        case "circle":
            return [_polar(np.ones(96))]
        case "ring":
            return [_polar(np.ones(96)), _polar(np.full(96, 0.5))]
        case "oval":
            return [_polar(np.ones(96)) * (1.0, 0.55)]
        case "flower":
            return [_polar(0.75 + 0.4 * np.abs(np.cos(2.5 * turn)))]
        case "clover":
            return [_polar(1 + 0.38 * np.cos(3 * turn))]
        case "peanut":
            return [_polar(1 + 0.42 * np.cos(2 * turn))]
        case "triangle":
            return [_polar(np.ones(3))]
        case "square":
            return [_polar(np.ones(4))]
        case "star":
            return [_polar(np.tile([1.0, 0.42], 5))]
        case "cross":
            return [
                np.array(
                    [
                        (1, 3),
                        (-1, 3),
                        (-1, 1),
                        (-3, 1),
                        (-3, -1),
                        (-1, -1),
                        (-1, -3),
                        (1, -3),
                        (1, -1),
                        (3, -1),
                        (3, 1),
                        (1, 1),
                    ],
                    float,
                )
            ]
        case "arrow":
            return [np.array([(3, 0), (0, 3), (0, 1.2), (-3, 1.2), (-3, -1.2), (0, -1.2), (0, -3)], float)]
        case "bolt":
            return [np.array([(0.5, 3), (-2.2, -0.7), (-0.4, -0.7), (-0.5, -3), (2.2, 0.7), (0.4, 0.7)], float)]
    raise ValueError(f"unknown shape {shape!r}: known are {', '.join(SHAPES)}")


def _signed_distance(x_P: np.ndarray, y_P: np.ndarray, loop_K2: np.ndarray) -> np.ndarray:
    """Distance of each point to a closed polygon, negative inside (even-odd rule). Returns (P,)."""
    nearest = np.full_like(x_P, np.inf)
    inside = np.zeros(x_P.shape, bool)
    for (x, y), (dx, dy) in zip(loop_K2, np.roll(loop_K2, -1, axis=0) - loop_K2, strict=True):
        off_x, off_y = x_P - x, y_P - y
        along = np.clip((off_x * dx + off_y * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (off_x - along * dx) ** 2 + (off_y - along * dy) ** 2)
        if dy:
            inside ^= ((off_y >= 0) != (off_y >= dy)) & (off_x < off_y * (dx / dy))
    return np.where(inside, -1, 1) * np.sqrt(nearest)


@cache
def distance_table(shape: str) -> np.ndarray:
    """Signed distances to a shape's outline, in radii, negative inside.

    Every shape covers the area of a disc of radius 0.85, so that size does not tell the shape.

    Args:
        shape: one of SHAPES.

    Returns:
        (TABLE, TABLE) float32 over [-EXTENT, EXTENT], rows are y.

    Raises:
        ValueError: an unknown shape.
    """
    loops = _outlines(shape)
    area = sum(sign * abs(_area(loop)) for sign, loop in zip((1, -1), loops, strict=False))
    loops = [(loop - loops[0].mean(axis=0)) * np.sqrt(np.pi * 0.85**2 / area) for loop in loops]
    axis = np.linspace(-EXTENT, EXTENT, TABLE)
    x_P, y_P = (grid.ravel() for grid in np.meshgrid(axis, axis))
    distance = _signed_distance(x_P, y_P, loops[0])
    for hole in loops[1:]:
        distance = np.maximum(distance, -_signed_distance(x_P, y_P, hole))
    return distance.reshape(TABLE, TABLE).astype(np.float32)


def _area(loop_K2: np.ndarray) -> float:
    x, y = loop_K2.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
