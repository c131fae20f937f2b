"""Textured backgrounds of the toy world. Each is drawn from a generator and looks alike at every resolution."""

from collections.abc import Callable

import numpy as np

Texture = Callable[[np.random.Generator, int], np.ndarray]


def _noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise of unit amplitude: a coarse normal grid, interpolated. Returns (size, size) float32."""

    def weights(cells: int) -> np.ndarray:
        position = (np.arange(size) + 0.5) / size * cells
        cell = position.astype(int)
        share = position - cell
        share = share * share * (3 - 2 * share)
        matrix = np.zeros((size, cells + 1), np.float32)
        matrix[np.arange(size), cell] = 1 - share
        matrix[np.arange(size), cell + 1] = share
        return matrix

    grid = rng.standard_normal((rows + 1, columns + 1), dtype=np.float32)
    return weights(rows) @ grid @ weights(columns).T


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], share: np.ndarray) -> np.ndarray:
    return np.float32(low) + np.clip(share, 0, 1)[..., None].astype(np.float32) * (np.float32(high) - np.float32(low))


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return axis[:, None], axis[None, :]


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    return _mix((45, 80, 30), (120, 150, 70), 0.5 + 0.25 * _noise(rng, size, 16, 60) + 0.1 * _noise(rng, size, 4, 4))


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _grid(size)
    waves = np.sin(2 * np.pi * (rng.uniform(9, 13) * y + 0.35 * _noise(rng, size, 8, 4) + rng.uniform()))
    return _mix((40, 80, 120), (105, 150, 180), 0.5 + 0.35 * waves)


def _sand(rng: np.random.Generator, size: int) -> np.ndarray:
    return _mix(
        (165, 135, 90), (220, 195, 150), 0.5 + 0.2 * _noise(rng, size, 56, 56) + 0.12 * _noise(rng, size, 14, 5)
    )


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _grid(size)
    rows, columns = y * 10 + rng.uniform(), x * 5 + rng.uniform()
    columns = columns + 0.5 * (rows.astype(int) % 2)
    mortar = np.maximum(np.abs(rows % 1 - 0.5) - 0.42, np.abs(columns % 1 - 0.5) - 0.46)
    clay = _mix((115, 62, 50), (165, 100, 80), 0.5 + 0.25 * _noise(rng, size, 10, 8))
    return np.where(mortar[..., None] > 0, np.float32((170, 160, 150)), clay)


def _snow(rng: np.random.Generator, size: int) -> np.ndarray:
    return _mix((190, 200, 215), (235, 238, 242), 0.6 + 0.2 * _noise(rng, size, 5, 5) + 0.1 * _noise(rng, size, 60, 60))


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    _, x = _grid(size)
    rings = np.sin(2 * np.pi * (rng.uniform(6, 9) * x + 0.5 * _noise(rng, size, 3, 5) + rng.uniform()))
    return _mix((95, 65, 40), (150, 110, 70), 0.5 + 0.3 * rings + 0.1 * _noise(rng, size, 8, 60))


def _tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _grid(size)
    rows, columns = y * 5 + rng.uniform(), x * 5 + rng.uniform()
    checker = (rows.astype(int) + columns.astype(int)) % 2
    return _mix((95, 98, 105), (165, 168, 172), 0.2 + 0.6 * checker + 0.06 * _noise(rng, size, 30, 30))


def _gravel(rng: np.random.Generator, size: int) -> np.ndarray:
    return _mix(
        (60, 58, 60), (150, 145, 140), 0.45 + 0.22 * _noise(rng, size, 36, 36) + 0.12 * _noise(rng, size, 60, 60)
    )


TEXTURES: dict[str, Texture] = {
    "grass": _grass,
    "water": _water,
    "sand": _sand,
    "bricks": _bricks,
    "snow": _snow,
    "wood": _wood,
    "tiles": _tiles,
    "gravel": _gravel,
}
BACKGROUNDS = tuple(TEXTURES)


def texture(name: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a background.

    Args:
        name: one of BACKGROUNDS.
        rng: consumed the same way at every size, so one seed gives one picture at any resolution.
        size: side in pixels.

    Returns:
        (size, size, 3) float32 in [0, 255].
    """
    return TEXTURES[name](rng, size)
