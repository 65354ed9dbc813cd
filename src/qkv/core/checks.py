"""What is checked before any work: shapes, kinds and, where reading costs nothing, values."""

from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from qkv.core.types import FLOATS, MOST, Grid
from qkv.errors import ArgumentError, KindError, ShapeError, must


def readable(*tensors: Tensor) -> bool:
    """Say whether tensors' values can be read at once: on the CPU, real, and not being traced, faked or mapped."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
            return False
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return False
    return True


def is_transformed() -> bool:
    """Say whether a transform of torch.func (vmap, grad, jvp) is at work: any tensor may then be one of its own."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def are_concrete(*tensors: Tensor) -> bool:
    """Say whether plain code may read these tensors and whatever else a call holds: a mask, a bias, a score."""
    return not is_transformed() and readable(*tensors)


def autocasts(device: torch.device) -> bool:
    """Say whether autocast is on for a device; not every kind of device knows it (meta does not)."""
    # Every call asks this twice, and it is seldom on for any device.
    if not torch._C._is_any_autocast_enabled():
        return False
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_LARGEST = torch.finfo(torch.float32).max


def is_integer(tensor: Tensor) -> bool:
    """Say whether a tensor holds integers that torch computes with (booleans are none, nor are uint16 to uint64)."""
    return tensor.dtype in _INTEGERS


def shown(value: object) -> str:
    """Write a value into one line: a tensor by its dtype and shape, read from no device, a huge integer by its size."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return f"{value.bit_length()} bits" if isinstance(value, int) and abs(value) >= 1 << 128 else repr(value)


def check_dense(function: str, argument: str, tensor: Tensor) -> None:
    """Raise KindError if a tensor is sparse, nested or laid out for a library of its own."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        got, how = ("a nested tensor", "to_padded_tensor(0)") if tensor.is_nested else (tensor.layout, "to_dense()")
        raise KindError(must(function, argument, "be a dense tensor", got, f".{how}"))


def check_floats(function: str, argument: str, tensor: object, fix: str = "") -> None:
    """Raise KindError unless it is a dense tensor of a dtype that qkv computes with."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise KindError(must(function, argument, "be a floating tensor", got, fix))
    check_dense(function, argument, tensor)


_PARTS = {
    "score": ("prepare", "qkv.scaled_dot()"),
    "bias": ("tile", "qkv.alibi(heads=8)"),
    "mask": ("runs", "qkv.causal()"),
    "select": ("summary", "qkv.softmax()"),
}
"""What tells one of the four choices from the others, and an example of it."""


def check_part(function: str, argument: str, part: object) -> None:
    """Raise KindError unless a part is None or an object of the kind that its argument takes."""
    if part is None:
        return
    method, example = _PARTS[argument]
    is_mask = argument != "mask" and hasattr(part, _PARTS["mask"][0])
    if hasattr(part, method) and not isinstance(part, type) and not is_mask:
        return
    if isinstance(part, type | FunctionType):
        got, fix = part.__name__, f"call it: {part.__name__}(...)"
    else:
        got = part.__name__ if isinstance(part, BuiltinFunctionType) else shown(part)
        fix = "a mask goes to mask=" if is_mask else f"such as {example}"
    kind = "selection" if argument == "select" else argument
    raise KindError(must(function, argument, f"be a {kind} of qkv", got, fix))


def check_integers(function: str, argument: str, numbers: object) -> None:
    """Raise KindError unless it is a tensor of integers."""
    if not isinstance(numbers, Tensor) or not is_integer(numbers):
        got = numbers.dtype if isinstance(numbers, Tensor) else type(numbers).__name__
        raise KindError(must(function, argument, "be a tensor of integers", got))


def check_offset_kind(function: str, offset: object) -> None:
    """Raise unless an offset is None, an int that is not beyond any grid, or a tensor of integers."""
    if offset is None:
        return
    if isinstance(offset, int) and not isinstance(offset, bool):
        if abs(offset) >= MOST:
            raise ArgumentError(must(function, "offset", "lie between -2^31 and 2^31", shown(offset)))
        return
    if isinstance(offset, Tensor):
        if not is_integer(offset):
            raise KindError(must(function, "offset", "hold integers", offset.dtype, "one position for each batch row"))
        return check_dense(function, "offset", offset)
    raise KindError(must(function, "offset", "be an integer or a tensor of integers", type(offset).__name__))


def check_offset(function: str, offset: int | Tensor | None, grid: Grid) -> None:
    """Raise ShapeError unless a tensor of offsets has one for each batch row."""
    if isinstance(offset, Tensor):
        check_batch(function, "offset", offset, grid)


def check_batch(function: str, argument: str, tensor: Tensor, grid: Grid) -> None:
    """Raise ShapeError unless a tensor has the shape [*batch]; KindError if it holds nothing."""
    if tuple(tensor.shape) != grid.batch:
        fix = f"query and key have the batch {list(grid.batch)}: [*batch, heads, positions, dim]"
        if not grid.batch:
            fix += f"; to draw a mask: picture({grid.queries}, {grid.keys}, batch={tuple(tensor.shape)})"
        raise ShapeError(must(function, argument, "have the shape [*batch]", list(tensor.shape), fix))
    check_held(function, argument, tensor, grid)


def check_held(function: str, argument: str, tensor: Tensor, query: Grid | Tensor) -> None:
    """Raise KindError if a tensor holds nothing (it is on meta) where the query holds numbers."""
    if tensor.device.type == "meta" != query.device.type:
        raise KindError(must(function, argument, f"hold numbers, as the query on {query.device} does", "a meta tensor"))


def check_lengths(function: str, argument: str, lengths: Tensor, most: int, what: str) -> None:
    """Raise ArgumentError if a length is negative or more than `most`, where the values can be read at once."""
    if readable(lengths) and lengths.numel():
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > most:
            bad = low if low < 0 else high
            raise ArgumentError(must(function, argument, f"lie in 0..{most}", bad, f"there are {most} {what}"))


def check_number(function: str, argument: str, value: object, rule: str, *, above: float | None = None) -> None:
    """Raise unless a value is a finite number that float32 holds, greater than `above` if that is given."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KindError(must(function, argument, f"be {rule}", type(value).__name__))
    if not abs(value) <= _LARGEST or (above is not None and value <= above):
        fix = "float32 ends at 3.4e38" if _LARGEST < abs(value) < torch.inf else ""
        raise ArgumentError(must(function, argument, f"be {rule}", shown(value), fix))


def check_values(function: str, argument: str, tensor: Tensor, rule: str, *, above: float | None = None) -> None:
    """Raise ArgumentError unless numbers are finite, and greater than `above` if given, where reading is free."""
    if readable(tensor):
        bad = ~tensor.isfinite() if above is None else ~(tensor.isfinite() & (tensor > above))
        if bad.any():
            raise ArgumentError(must(function, argument, f"be {rule}", tensor[bad][0].item()))


def check_whole(function: str, argument: str, value: object, low: int, fix: str = "", *, below: int = MOST) -> None:
    """Raise unless a value is an integer of at least `low`, and below a power of 2."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise KindError(must(function, argument, "be an integer", type(value).__name__, fix))
    if value < low:
        raise ArgumentError(must(function, argument, f"be >= {low}", shown(value), fix))
    if value >= below:
        raise ArgumentError(must(function, argument, f"be below 2^{below.bit_length() - 1}", shown(value)))


def check_rate(function: str, argument: str, value: object) -> None:
    """Raise unless a value is a probability, in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KindError(must(function, argument, "be a number", type(value).__name__))
    if not 0 <= value <= 1:
        raise ArgumentError(must(function, argument, "lie in [0, 1]", shown(value)))


def check_width(function: str, argument: str, tensor: Tensor, width: int) -> None:
    """Raise ShapeError unless a tensor's last dimension is `width`."""
    if tensor.shape[-1] != width:
        raise ShapeError(must(function, argument, f"have the width {width}", tensor.shape[-1], list(tensor.shape)))


def check_same_width(function: str, query: Tensor, key: Tensor) -> None:
    """Raise ShapeError unless query and key are equally wide."""
    if query.shape[-1] != key.shape[-1]:
        fix = "qkv.Bilinear and qkv.Additive score vectors of different widths"
        got = f"{query.shape[-1]} and {key.shape[-1]}"
        raise ShapeError(must(function, "query and key", "have the same width", got, fix))


def check_device(function: str, argument: str, tensor: Tensor, query: Grid | Tensor) -> None:
    """Raise KindError unless a tensor is where the query is."""
    if tensor.device != query.device:
        raise KindError(must(function, argument, f"be on the query's device {query.device}", tensor.device))


_AUTOCAST = {torch.float16, torch.bfloat16, torch.float32}
"""What autocast casts."""


def check_dtype(function: str, argument: str, tensor: Tensor, weight: Tensor) -> None:
    """Raise KindError unless a tensor has the device and dtype of the weight it meets (autocast casts by itself)."""
    if tensor.device != weight.device:
        rule = f"be on the weights' device {weight.device}"
        raise KindError(must(function, argument, rule, tensor.device, f"module.to({str(tensor.device)!r})"))
    cast = autocasts(tensor.device) and {tensor.dtype, weight.dtype} <= _AUTOCAST
    if tensor.dtype != weight.dtype and not cast:
        fix = f"module.to({tensor.dtype})"
        raise KindError(must(function, argument, f"have the weights' dtype {weight.dtype}", tensor.dtype, fix))


def check_indices(function: str, argument: str, numbers: Tensor, size: int) -> None:
    """Raise unless a tensor holds integers that lie in a table of `size` rows (read on the CPU only)."""
    check_integers(function, argument, numbers)
    if readable(numbers) and numbers.numel():
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= size:
            raise ArgumentError(must(function, argument, f"lie in 0..{size - 1}", low if low < 0 else high))


def check_spread(function: str, argument: str, tensor: Tensor, grid: Grid) -> None:
    """Raise unless a floating tensor spreads out to [*batch, heads, queries, keys], on the grid's device."""
    check_floats(function, argument, tensor)
    whole = (*grid.batch, grid.heads, grid.queries, grid.keys)
    fits = 2 <= tensor.ndim <= len(whole)
    fits = fits and all(have in (1, want) for have, want in zip(tensor.shape[::-1], whole[::-1], strict=False))
    if not fits:
        rule = "spread out to [*batch, heads, queries, keys]"
        raise ShapeError(must(function, argument, rule, list(tensor.shape), f"the pairs are {list(whole)}"))
    check_device(function, argument, tensor, grid)
