"""Resizing by area in NumPy, bit for bit equal to OpenCV's INTER_AREA."""

import numpy as np


class AreaResize:
    """Grey pictures uint8 [H, W] become [height, width]: each pixel is the mean of the area that it covers.

    The sums are float32, along the lines and then down the columns, pixel by pixel from the first. That is OpenCV's
    order: another order would round some means half-way between two grey levels the other way.
    """

    def __init__(self, size: tuple[int, int], height: int, width: int) -> None:
        self._lines, self._line_weights = _taps(size[0], height)
        self._columns, self._column_weights = _taps(size[1], width)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        narrow = _weigh(picture.T.astype(np.float32), self._columns, self._column_weights)
        small = _weigh(np.ascontiguousarray(narrow.T), self._lines, self._line_weights)
        return np.rint(small, out=small).astype(np.uint8)


def _weigh(rows: np.ndarray, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of float32 [rows, ...] over the taps [K, cells], in their order: [cells, ...]."""
    parts = rows[taps]
    parts *= weights
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


def _taps(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that lie in each cell, and what share of the cell each one is: int [K, cells], float32 [K, cells, 1].

    A cell of fewer than K pixels is filled up with shares of zero.
    """
    cell, pixel = np.arange(cells)[:, None], np.arange(pixels)
    shared = np.minimum((cell + 1) * pixels, (pixel + 1) * cells) - np.maximum(cell * pixels, pixel * cells)
    shared = shared.clip(0)  # in units of 1 / cells of a pixel
    most = (shared > 0).sum(1).max()
    taps = (shared > 0).argmax(1) + np.arange(most)[:, None]
    weights = np.pad(shared, ((0, 0), (0, most)))[cell[:, 0], taps] / pixels
    return np.minimum(taps, pixels - 1), weights.astype(np.float32)[:, :, None]
