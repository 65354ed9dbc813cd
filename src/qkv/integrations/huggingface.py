"""Hugging Face's models on qkv's attention: `attn_implementation="qkv"`.

    qkv.register()
    model = AutoModel.from_pretrained(name, attn_implementation="qkv")

Forward and backward run on whatever path `attend` chooses. Weights come when they are asked for
(`output_attentions=True`), and no slower path is taken for them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention import attend, attend_with_map
from qkv.core.types import Score
from qkv.errors import UnsupportedError, must
from qkv.masks.causal import causal
from qkv.scores.dot import scaled_dot
from qkv.scores.softcap import soft_cap
from qkv.selections.sink import sink

NAME = "qkv"

# What models pass along that says nothing of the attention itself, or that its mask says already.
_SAID_ELSEWHERE = {
    "cache_position",
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

    Raises: UnsupportedError if transformers is not installed.
    """
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ModuleNotFoundError as error:
        fix = "pip install 'transformers>=5.3'"
        raise UnsupportedError(must("register", "transformers", "be installed", "no such package", fix)) from error
    AttentionInterface.register(NAME, attention)
    # True where a query may attend; none where nothing is hidden: as `attend` takes them.
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch key_heads keys dim"],
    value: Float[Tensor, "batch key_heads keys value_dim"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "batch queries heads value_dim"], Float[Tensor, "batch heads queries keys"] | None]:
    """Attend as a model of transformers asks it. A sliding window is in the mask already.

    Raises: UnsupportedError for anything asked that is not known here.
    """
    unknown = [name for name, given in others.items() if given is not None and name not in _SAID_ELSEWHERE]
    if unknown:
        rule, fix = "be among what qkv knows", 'another attn_implementation, such as "eager", may know it'
        raise UnsupportedError(must("attention", f"what {type(module).__name__} passes", rule, ", ".join(unknown), fix))
    score: Score = scaled_dot(scale=scaling)
    given: dict[str, Any] = {
        "score": score if softcap is None else soft_cap(score, softcap),
        "bias": position_bias,
        "select": None if s_aux is None else sink(s_aux),
        "dropout": dropout,
    }
    if attention_mask is None:
        is_causal = others.get("is_causal")
        is_causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
        # One query stands at the end, and sees all.
        given["mask"] = causal() if is_causal and query.shape[2] > 1 else None
    elif attention_mask.dtype == torch.bool:
        given["mask"] = attention_mask
    else:
        # A mask of the user's own, to be added.
        given["bias"] = attention_mask if position_bias is None else position_bias + attention_mask
    if not output_attentions:
        return attend(query, key, value, **given).transpose(1, 2), None
    output, seen = attend_with_map(query, key, value, **given)
    return output.transpose(1, 2), seen.dense()
