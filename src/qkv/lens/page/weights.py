"""The weights of a view, packed as exactly as a budget allows.

The weights of a head are rounded to whole multiples of a step, laid out key by key (a key that many queries look at is
a run), deflated and written as base64. `script/weights.js` undoes it: weight = step * number.
"""

import base64
import zlib
from dataclasses import dataclass, field

import numpy as np

from qkv.errors import ArgumentError, ShapeError, must
from qkv.lens.page.view import View

# Steps are powers of 2^(1/OCTAVE): from 1/8, past which a picture says nothing, to 1/32,768.
FINEST, COARSEST, OCTAVE = 240, 48, 16
# A head whose rows peak below this is diffuse and gets a finer step than the others.
DIFFUSE = 0.05
# The size of a step is estimated from one key in so many.
SAMPLED = 8


@dataclass
class Measured:
    """What one pass over a view's heads tells: enough to choose their steps."""

    layers: int
    heads: int
    stride: int
    peaks: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)

    def steps(self, fineness: int) -> list[float]:
        """The step of each head."""
        return [_step(fineness, peak, high) for peak, high in zip(self.peaks, self.highest, strict=True)]

    def estimated_size(self, fineness: int) -> float:
        """Bytes of base64, from every `stride`-th key."""
        sizes = (len(_pack(sample, step)) for sample, step in zip(self.samples, self.steps(fineness), strict=True))
        return self.stride * sum(sizes) * 4 / 3


def measure(view: View) -> Measured:
    """Read every head once. Raises: as View.check and View.heads; ArgumentError if there is no such start."""
    view.check()
    stride = SAMPLED if min(view.shape) >= 8 * SAMPLED else 1
    found = Measured(len(view.weights), 0, stride)
    counts = [0] * found.layers
    for layer, head in view.heads():
        counts[layer] += 1
        rows = head.max(axis=1)
        found.peaks.append(float(rows[rows > 0].mean()) if (rows > 0).any() else 0.0)
        found.highest.append(float(rows.max()))
        found.samples.append(np.ascontiguousarray(head[:, stride // 2 :: stride].T))
    if len(set(counts)) > 1:
        raise ShapeError(must("View", "weights", "have as many heads in each layer", counts, "one layer per item"))
    found.heads = counts[0]
    if not (0 <= view.start[0] < found.layers and 0 <= view.start[1] < found.heads):
        there = f"{found.layers} layers of {found.heads} heads, counted from 0"
        raise ArgumentError(must("View", "start", "be a layer and a head", view.start, there))
    return found


def fit(view: View, measured: Measured, budget: int) -> tuple[list[str], list[float]]:
    """Pack every head with the finest steps whose sizes together stay within the budget."""
    low, high = COARSEST, FINEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measured.estimated_size(middle) <= budget else (low, middle - 1)
    measured.samples.clear()
    for fineness in range(low, COARSEST - 1, -1):
        steps = measured.steps(fineness)
        packed: list[str] = []
        size = 0
        for (_, head), step in zip(view.heads(), steps, strict=True):
            packed.append(base64.b64encode(_pack(head.T, step)).decode())
            size += len(packed[-1])
            if size > budget:
                break
        else:
            return packed, steps
    need = f"hold {measured.layers} layers of {measured.heads} heads over {max(view.shape)} tokens"
    fix = "allow more, or pass fewer tokens or heads"
    raise ArgumentError(must("render_page", "budget", need, f"{budget} bytes", fix))


def _step(fineness: int, peak: float, highest: float) -> float:
    """The step of a head: a power of 2^(1/16), finer for a head whose rows are diffuse, within 16 bits."""
    diffuse = min(1.0, peak / DIFFUSE) if peak > 0 else 1.0
    return max(2 ** (-fineness / OCTAVE) * diffuse, highest / 65_000)


def _pack(columns: np.ndarray, step: float) -> bytes:
    """Deflate the numbers, low bytes first; high bytes follow only where one is needed.

    Runs and Huffman codes alone beat matching here: smaller by a tenth and five times faster.
    """
    numbers = np.rint(np.ascontiguousarray(columns) * np.float32(1 / step)).astype(np.uint16)
    planes = (numbers & 255).astype(np.uint8).tobytes()
    if numbers.size and numbers.max() > 255:
        planes += (numbers >> 8).astype(np.uint8).tobytes()
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return deflate.compress(planes) + deflate.flush()
