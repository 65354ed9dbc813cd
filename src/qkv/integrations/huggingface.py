"""Hugging Face's models on qkv's attention: `attn_implementation="qkv"`.

    qkv.register()
    model = AutoModel.from_pretrained(name, attn_implementation="qkv")

Forward and backward run on whatever path `attend` chooses, and masks skip work: where transformers would spell out
which pairs may meet, the layers get the closed form. Weights come when they are asked for (`output_attentions=True`),
and no slower path is taken for them.
"""

import sys
from collections.abc import Callable
from functools import reduce, wraps
from operator import and_
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from qkv.attention import attend, attend_with_map
from qkv.core.checks import are_concrete
from qkv.core.types import Score
from qkv.errors import UnsupportedError, must
from qkv.masks.algebra import Mask
from qkv.masks.causal import Causal, causal
from qkv.masks.padding import padding
from qkv.masks.spans import spans
from qkv.masks.window import Window, window
from qkv.scores.dot import scaled_dot
from qkv.scores.softcap import soft_cap
from qkv.selections.sink import sink

NAME = "qkv"

# What models pass along that says nothing of the attention itself, or that its mask says already.
_SAID_ELSEWHERE = {
    "cache_position",
    "deterministic",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "interpolate_pos_encoding",
    "is_causal",
    "layer_idx",
    "logits_to_keep",
    "num_items_in_batch",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "sliding_window",
    "token_type_ids",
    "use_cache",
}


def register() -> None:
    """Let transformers' models name "qkv" as their attention.

    Attention and masks are registered together: with the attention alone, transformers would drop the padding's mask.
    A model whose code computes attention itself, and would take our masks for its own, raises UnsupportedError when it
    is loaded with, or switched to, attn_implementation="qkv".

    Raises: UnsupportedError if transformers is not installed.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
    except ModuleNotFoundError as error:
        fix = "pip install 'transformers>=5.3'"
        raise UnsupportedError(must("register", "transformers", "be installed", "no such package", fix)) from error
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, closed_mask)
    if not hasattr(PreTrainedModel.get_correct_attn_implementation, "inner"):
        checked = _checked(PreTrainedModel.get_correct_attn_implementation)
        PreTrainedModel.get_correct_attn_implementation = checked  # type: ignore[method-assign]


def _checked(inner: Callable[..., str]) -> Callable[..., str]:
    """Check a model before transformers does: of an attention that it does not know itself it asks nothing."""

    @wraps(inner)
    def get_correct_attn_implementation(
        self: nn.Module, requested_attention: str | None, *more: Any, **told: Any
    ) -> str:
        if requested_attention == NAME:
            _check_model(type(self))
        return inner(self, requested_attention, *more, **told)

    get_correct_attn_implementation.inner = inner  # type: ignore[attr-defined]
    return get_correct_attn_implementation


# Adds numbers to whatever mask it is given, flags too.
_MIXES_MASKS = {"DeepseekV4PreTrainedModel"}


def _check_model(kind: type) -> None:
    """Raise UnsupportedError for a model that has attention and computes it past transformers' interface."""
    code = vars(sys.modules[kind.__module__])
    # A model made of others has none; those are checked themselves.
    attends = any(isinstance(part, type) and "Attention" in name for name, part in code.items())
    flags = (getattr(kind, name, False) for name in ("_supports_sdpa", "_supports_attention_backend"))
    routes = "ALL_ATTENTION_FUNCTIONS" in code and any(flags)
    mixes = any(base.__name__ in _MIXES_MASKS for base in kind.__mro__)
    if attends and (mixes or not routes):
        rule, fix = "compute its attention through transformers' interface", 'attn_implementation="eager"'
        raise UnsupportedError(must("register", "the model", rule, kind.__name__, fix))


# Attention


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch key_heads keys dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    attention_mask: Tensor | None,
    output_attentions: bool | None = None,
    **asked: Any,
) -> tuple[Float[Tensor, "batch queries heads value_dim"], Float[Tensor, "batch heads queries keys"] | None]:
    """Attend as a model of transformers asks it.

    Raises: UnsupportedError for anything asked that is not known here.
    """
    given = asked_of(module, query, key, attention_mask, **asked)
    if not output_attentions and not _records_weights():
        return attend(query, key, value, **given).transpose(1, 2), None
    output, seen = attend_with_map(query, key, value, **given)
    return output.transpose(1, 2), seen.dense()


def _records_weights() -> bool:
    """Say whether transformers records weights in this pass: some models keep the wish from their attention (GPT-2)."""
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:
        return False
    return any(name.endswith("attentions") for name in _active_collector.get() or ())


def asked_of(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Say in `attend`'s words what a module of transformers asks. A sliding window is in its mask already.

    Raises: UnsupportedError for anything that is not known here.
    """
    unknown = [name for name, given in others.items() if given is not None and name not in _SAID_ELSEWHERE]
    if unknown:
        rule, fix = "be among what qkv knows", 'another attn_implementation, such as "eager", may know it'
        raise UnsupportedError(must("attention", f"what {type(module).__name__} passes", rule, ", ".join(unknown), fix))
    score: Score = scaled_dot(scale=scaling)
    given: dict[str, Any] = {
        "score": score if softcap is None else soft_cap(score, softcap),
        "bias": position_bias,
        "mask": None,
        "select": None if s_aux is None else sink(s_aux),
        "dropout": dropout,
    }
    if attention_mask is None:
        is_causal = others.get("is_causal")
        is_causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
        queries, keys = query.shape[2], key.shape[2]
        # One query stands at the end, and sees all. Without a mask, more keys than queries are an empty store's.
        if is_causal and queries > 1:
            given["mask"] = causal() if queries == keys else causal(offset=0)
    elif attention_mask.dtype == torch.bool:
        fits = attention_mask.shape == (query.shape[0], 1, query.shape[2], key.shape[2])
        given["mask"] = attention_mask.mask if isinstance(attention_mask, ClosedMask) and fits else attention_mask
    else:
        # A mask of the user's own, to be added.
        given["bias"] = attention_mask if position_bias is None else position_bias + attention_mask
    return given


# Masks


class ClosedMask(Tensor):
    """A mask of qkv in the place of a dense one [batch, 1, queries, keys]: what looks into it finds it spelled out."""

    mask: Mask
    _spelled: Tensor | None

    @staticmethod
    def __new__(cls, mask: Mask, batch: int, queries: int, keys: int, device: torch.device) -> "ClosedMask":
        """Make one."""
        shape = (batch, 1, queries, keys)
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        made.mask, made._spelled = mask, None
        return made

    def spelled(self) -> Bool[Tensor, "batch 1 queries keys"]:
        """Spell it out, once. Cost: O(queries·keys) memory for each row of the batch."""
        if self._spelled is None:
            batch, _, queries, keys = self.shape
            dense = self.mask.dense(queries, keys, batch=(batch,), device=self.device)
            self._spelled = dense.expand(self.shape)
        return self._spelled

    def __repr__(self) -> str:  # type: ignore[override]
        return f"ClosedMask({self.mask}, {list(self.shape)})"

    # Nothing is known of it but its shape, dtype and device.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Callable[..., Any], types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        args, kwargs = tree_map(_spelled, (args, kwargs or {}))
        return function(*args, **kwargs)


def _spelled(part: object) -> object:
    return part.spelled() if isinstance(part, ClosedMask) else part


def closed_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    *,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> Tensor | None:
    """Make the mask that a model of transformers asks for, in closed form: causal, windows, chunks, packed, padding.

    As transformers has it, None says that nothing is hidden, or what comes later where keys are as many as queries. A
    rule that is not known here, or that torch.compile traces, is spelled out.
    """
    from transformers.masking_utils import sdpa_mask

    given = [tensor for tensor in (attention_mask, q_offset) if isinstance(tensor, Tensor)]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or not are_concrete(*given)
    # So transformers asks for the mask of a step that it compiles, which takes plain tensors alone.
    traced = traced or (q_length == 1 and not (allow_is_causal_skip or allow_is_bidirectional_skip))
    offset = 0 if traced else int(q_offset) - kv_offset
    parts = None if traced or use_vmap else _parts(mask_function, q_length, kv_length, offset, kv_offset, device)
    if parts is None:
        return sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,  # type: ignore[arg-type]
            allow_is_causal_skip=allow_is_causal_skip, allow_is_bidirectional_skip=allow_is_bidirectional_skip,
            use_vmap=use_vmap, device=device, **others,
        )  # fmt: skip
    parts += _kept_keys(attention_mask, kv_length, kv_offset)
    if not parts and (allow_is_causal_skip or allow_is_bidirectional_skip):
        return None
    if parts == [causal()] and q_length == kv_length and allow_is_causal_skip:
        return None
    every = torch.zeros(q_length, dtype=torch.int64, device=device)
    whole = reduce(and_, parts) if parts else spans(every, every + kv_length)
    return ClosedMask(whole, batch_size, q_length, kv_length, torch.device(device))


def _parts(
    rule: Callable[..., Any], queries: int, keys: int, offset: int, first: int, device: torch.device | str
) -> list[Mask] | None:
    """Read a rule of transformers as masks that all hold; None for one that is not known.

    The rules are known by their code: each is a function made inside another, with what it was given in its closure.
    """
    from transformers import masking_utils as theirs

    place = None if offset == keys - queries else offset
    rows = torch.arange(queries, device=device) + offset
    if not isinstance(rule, FunctionType):
        return None
    held = dict(zip(rule.__code__.co_freevars, (cell.cell_contents for cell in rule.__closure__ or ()), strict=True))

    def is_made_by(maker: Callable[..., Any], *given: Any) -> bool:
        return rule.__code__ is maker(*given).__code__

    def read(inner: Callable[..., Any]) -> list[Mask] | None:
        return _parts(inner, queries, keys, offset, first, device)

    if rule is theirs.bidirectional_mask_function:
        return []
    if rule is theirs.causal_mask_function:
        # One query at the end sees all.
        return [] if place is None and queries == 1 else [causal(offset=place)]
    if is_made_by(theirs.and_masks):
        each = [read(inner) for inner in held["mask_functions"]]
        return None if None in each else [mask for masks in each for mask in masks or ()]
    if is_made_by(theirs.sliding_window_overlay, 1):
        width = held["sliding_window"]
        # Models ask for masks of windows that they have not, and that no layer takes.
        if width < 1:
            return None
        # Nor does a window hide anything that all keys fit into.
        return [] if place is None and width >= keys else [window(before=width - 1, after=keys, offset=place)]
    if is_made_by(theirs.sliding_window_bidirectional_overlay, 1):
        return [window(before=held["sliding_window"], after=held["sliding_window"], offset=place)]
    if is_made_by(theirs.chunked_overlay, 1, rows):
        chunk, left = held["chunk_size"], held["left_padding"][:, None, None] - first
        start = left + (rows - left).div(chunk, rounding_mode="floor") * chunk
        return [spans(start, start + chunk)]
    if is_made_by(theirs.packed_sequence_mask_function, rows):
        # Which sequence each place is of rises along the row: [batch, places].
        ids = held["packed_sequence_mask"].contiguous()
        start, stop = (torch.searchsorted(ids, ids, side=side) for side in ("left", "right"))
        return [spans(start[:, None], stop[:, None])]
    if is_made_by(theirs.remap_positions_for_packed_sequence, rule, rows):
        # Inside a sequence places count as on the row, and causal and window know nothing but distances.
        inner = read(held["mask_function"])
        known = inner is not None and all(isinstance(mask, Causal | Window) for mask in inner)
        return inner if known else None
    return None


def _kept_keys(kept: Bool[Tensor, "batch places"] | None, keys: int, first: int) -> list[Mask]:
    """Read which keys are no padding, from place `first` on; those beyond the tensor's end are."""
    if kept is None:
        return []
    kept = F.pad(kept, (0, max(0, first + keys - kept.shape[1])))[:, first : first + keys]
    counts, columns = kept.sum(-1), torch.arange(keys, device=kept.device)
    if torch.equal(kept, columns < counts[:, None]):
        return [] if bool((counts == keys).all()) else [padding(keys=counts)]
    if torch.equal(kept, columns >= keys - counts[:, None]):
        return [padding(keys=counts, left=True)]
    return [padding(keys=kept)]
