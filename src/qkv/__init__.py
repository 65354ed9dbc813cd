"""qkv: attention for PyTorch. Every mechanism, one call; exact, fast, visible.

    out = qkv.attend(query, key, value, mask=qkv.causal() & qkv.window(256))

The common names are here; each lives in the file of its concept, and is imported when it is first asked for.
"""

import importlib
from typing import Any

_HOME = {
    "attention": ("attend", "attend_with_map", "attention_map"),
    "core.map": ("AttentionMap",),
    "core.merge": ("merge_attention",),
    "core.runs": ("Runs",),
    "core.types": ("AdditivePair", "Bias", "DotPair", "Grid", "Score", "Selection"),
    "errors": (
        "ArgumentError",
        "FileError",
        "KindError",
        "QkvError",
        "ShapeError",
        "TrainingError",
        "UnsupportedError",
    ),
    "explanation": ("Explanation", "explain"),
    "integrations.huggingface": ("register",),
    "lens.ablate": ("CutEdge", "Effect", "Loss", "Off", "Prediction", "Uniform", "Vector", "ablate", "effects"),
    "lens.flow": ("residual_share", "rollout"),
    "lens.index": ("WordIndex",),
    "lens.indexing": ("words",),
    "lens.notebook": ("show",),
    "lens.reading": ("Reading", "read"),
    "lens.watch": ("watch",),
    "masks.algebra": ("Mask",),
    "masks.blocks": ("bigbird", "blocks"),
    "masks.causal": ("causal",),
    "masks.dense": ("dense_mask",),
    "masks.documents": ("documents",),
    "masks.padding": ("padding",),
    "masks.prefix": ("prefix",),
    "masks.window": ("window",),
    "mechanisms.bahdanau": ("Annotations", "Bahdanau"),
    "mechanisms.cache": ("Cache", "RaggedCache", "RollingCache"),
    "mechanisms.coverage": ("Coverage",),
    "mechanisms.hard": ("Choice", "HardAttention", "MovingBaseline", "reinforce"),
    "mechanisms.local": ("LocalMonotonic", "LocalPredictive"),
    "mechanisms.luong": ("GlobalAttention", "InputFeeding", "Luong"),
    "mechanisms.monotonic": ("Monotonic",),
    "mechanisms.multihead": ("MultiHead",),
    "models.bert": ("Bert", "BertConfig"),
    "models.captioner": ("Captioner", "CaptionerConfig", "HardRegions", "SoftRegions"),
    "models.cross_entropy": ("cross_entropy",),
    "models.generation": ("beam_search", "fill", "generate", "greedy", "sample"),
    "models.gpt": ("Gpt", "GptConfig"),
    "models.layers": ("no_positions", "post_norm", "pre_norm"),
    "models.looking": (
        "AdditiveAttention",
        "ConcatScore",
        "CoverageAttention",
        "GeneralScore",
        "LocalM",
        "LocalP",
        "LocationScore",
        "LuongAttention",
        "NoAttention",
        "SampledAttention",
    ),
    "models.norms": ("batch_norm", "layer_norm", "rms_norm"),
    "models.pretrained": (
        "default_folder",
        "default_model",
        "load_bert",
        "load_gpt",
        "load_model",
        "save_bert",
        "save_gpt",
        "save_model",
    ),
    "models.recurrent": ("InputFed", "LookThenStep", "Recurrent", "RecurrentConfig", "StepThenLook"),
    "models.transformer": ("Transformer", "TransformerConfig"),
    "models.translation": ("translate",),
    "positions.alibi": ("alibi",),
    "positions.dense": ("dense_bias",),
    "positions.embeddings": ("LearnedPositions", "Segments"),
    "positions.relative": ("T5Relative",),
    "positions.rotary": ("Rotary", "rotary"),
    "positions.sinusoidal": ("sinusoidal",),
    "scores.additive": ("Additive", "Concat"),
    "scores.bilinear": ("Bilinear",),
    "scores.cosine": ("cosine",),
    "scores.dot": ("dot", "scaled_dot"),
    "scores.location": ("Location",),
    "scores.softcap": ("soft_cap",),
    "selections.hard": ("hard",),
    "selections.sigmoid": ("sigmoid",),
    "selections.sink": ("sink",),
    "selections.soft": ("softmax",),
    "selections.sparse": ("entmax15", "sparsemax"),
    "selections.topk": ("topk",),
    "text.batching": ("Sequences",),
    "text.tokenizer": ("load_tokenizer",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("qkv")
    if name not in _WHERE:
        raise AttributeError(f"module 'qkv' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"qkv.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
