"""Every refusal, word for word: `<function>: <argument> must <rule>; got <value> (<shape or fix>)`.

Without the shape checks, which would answer a wrong type or rank before qkv does.
"""

import re

import pytest
import torch

import qkv
from qkv import attend

NAN, INF = float("nan"), float("inf")
Q, K, V = torch.zeros(2, 4, 5, 8), torch.zeros(2, 4, 7, 8), torch.zeros(2, 4, 7, 8)
SEEN = qkv.attention_map(Q, K)
HOUSE_FORM = re.compile(r"[^:]+: .+ must .+; got .+( \(.+\))?", re.DOTALL)

TABLE = [
    (lambda: attend(Q.tolist(), K, V), qkv.KindError, "attend: query must be a tensor; got list"),
    (lambda: attend(Q, K.numpy(), V), qkv.KindError, "attend: key must be a tensor; got ndarray"),
    (
        lambda: attend(Q.long(), K, V),
        qkv.KindError,
        "attend: query must be a floating tensor; got torch.int64 (query.float())",
    ),
    (
        lambda: attend(Q, K.bool(), V),
        qkv.KindError,
        "attend: key must be a floating tensor; got torch.bool (key.float())",
    ),
    (
        lambda: attend(Q, K, V.to(torch.complex64)),
        qkv.KindError,
        "attend: value must be a floating tensor; got torch.complex64 (value.float())",
    ),
    (
        lambda: attend(Q[0, 0], K, V),
        qkv.ShapeError,
        (
            "attend: query must have the shape [*batch, heads, positions, dim]; got [5, 8] (one head: "
            "query.unsqueeze(-3))"
        ),
    ),
    (
        lambda: attend(Q[0, 0, 0], K, V),
        qkv.ShapeError,
        (
            "attend: query must have the shape [*batch, heads, positions, dim]; got [8] (positions and heads: "
            "view(1, 1, dim))"
        ),
    ),
    (
        lambda: attend(Q, K.double(), V),
        qkv.KindError,
        "attend: key must have the query's dtype torch.float32; got torch.float64 (key.to(query.dtype))",
    ),
    (
        lambda: attend(Q, K, V.half()),
        qkv.KindError,
        "attend: value must have the query's dtype torch.float32; got torch.float16 (value.to(query.dtype))",
    ),
    (lambda: attend(Q, K.to("meta"), V), qkv.KindError, "attend: key must be on the query's device cpu; got meta"),
    (
        lambda: attend(Q, K[:1], V[:1]),
        qkv.ShapeError,
        "attend: key must have the query's batch [2]; got [1] (key is [1, 4, 7, 8])",
    ),
    (
        lambda: attend(Q, K, V[:1]),
        qkv.ShapeError,
        "attend: value must have the query's batch [2]; got [1] (value is [1, 4, 7, 8])",
    ),
    (
        lambda: attend(Q, K[:, :3], V[:, :3]),
        qkv.ShapeError,
        "attend: the key's heads must divide the query's 4 heads; got 3 (key is [2, 3, 7, 8])",
    ),
    (
        lambda: attend(Q, K, V[:, :2]),
        qkv.ShapeError,
        "attend: value must have the key's 4 heads; got 2 (value is [2, 2, 7, 8])",
    ),
    (
        lambda: attend(Q, K, V[..., :6, :]),
        qkv.ShapeError,
        "attend: value must have the key's 7 positions; got 6 (value is [2, 4, 6, 8])",
    ),
    (
        lambda: attend(Q, K[..., :5], V),
        qkv.ShapeError,
        (
            "scaled_dot: query and key must have the same width; got 8 and 5 (qkv.Bilinear and qkv.Additive score"
            " vectors of different widths)"
        ),
    ),
    (
        lambda: attend(Q, K[..., :5], V, score=qkv.dot()),
        qkv.ShapeError,
        (
            "dot: query and key must have the same width; got 8 and 5 (qkv.Bilinear and qkv.Additive score "
            "vectors of different widths)"
        ),
    ),
    (
        lambda: attend(Q, K[..., :5], V, score=qkv.cosine()),
        qkv.ShapeError,
        (
            "cosine: query and key must have the same width; got 8 and 5 (qkv.Bilinear and qkv.Additive score "
            "vectors of different widths)"
        ),
    ),
    (
        lambda: attend(Q.to(torch.float8_e4m3fn), K, V),
        qkv.KindError,
        "attend: query must be a floating tensor; got torch.float8_e4m3fn (query.float())",
    ),
    (
        lambda: attend(Q, K.to_sparse(), V),
        qkv.KindError,
        "attend: key must be a dense tensor; got torch.sparse_coo (.to_dense())",
    ),
    (
        lambda: attend(Q, K, V.to_mkldnn()),
        qkv.KindError,
        "attend: value must be a dense tensor; got torch._mkldnn (.to_dense())",
    ),
    (
        lambda: attend(torch.nested.as_nested_tensor([Q[0]], layout=torch.jagged), K, V),
        qkv.KindError,
        "attend: query must be a dense tensor; got a nested tensor (.to_padded_tensor(0))",
    ),
    (
        lambda: attend(Q, K, V, score=torch.ones(99, 99)),
        qkv.KindError,
        "attend: score must be a score of qkv; got float32[99, 99] (such as qkv.scaled_dot())",
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(5, 7).to_sparse()),
        qkv.KindError,
        "bias: the tensor must be a dense tensor; got torch.sparse_coo (.to_dense())",
    ),
    (
        lambda: attend(Q, K, V, mask=torch.ones(5, 7, dtype=torch.bool).to_sparse()),
        qkv.KindError,
        "dense_mask: tensor must be a dense tensor; got torch.sparse_coo (.to_dense())",
    ),
    (lambda: attend(Q, K, V, dropout=1.5), qkv.ArgumentError, "attend: dropout must lie in [0, 1]; got 1.5"),
    (lambda: attend(Q, K, V, dropout=-0.1), qkv.ArgumentError, "attend: dropout must lie in [0, 1]; got -0.1"),
    (lambda: attend(Q, K, V, dropout=NAN), qkv.ArgumentError, "attend: dropout must lie in [0, 1]; got nan"),
    (lambda: attend(Q, K, V, dropout=True), qkv.KindError, "attend: dropout must be a number; got bool"),
    (lambda: attend(Q, K, V, dropout="0.1"), qkv.KindError, "attend: dropout must be a number; got str"),
    (
        lambda: attend(Q, K, V, impl="sdpa", score=qkv.soft_cap(qkv.dot(), 2.0)),
        qkv.UnsupportedError,
        (
            "attend: impl must name what can compute this call; got 'sdpa' (sdpa: it scores by dot products alone, "
            "not by soft_cap(dot(), 2))"
        ),
    ),
    (
        lambda: attend(Q, K, V, score="dot"),
        qkv.KindError,
        "attend: score must be a score of qkv; got 'dot' (such as qkv.scaled_dot())",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.dot),
        qkv.KindError,
        "attend: score must be a score of qkv; got dot (call it: dot(...))",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Additive),
        qkv.KindError,
        "attend: score must be a score of qkv; got Additive (call it: Additive(...))",
    ),
    (
        lambda: attend(Q, K, V, bias="alibi"),
        qkv.KindError,
        "attend: bias must be a bias of qkv; got 'alibi' (such as qkv.alibi(heads=8))",
    ),
    (
        lambda: attend(Q, K, V, bias=qkv.alibi),
        qkv.KindError,
        "attend: bias must be a bias of qkv; got alibi (call it: alibi(...))",
    ),
    (
        lambda: attend(Q, K, V, bias=qkv.causal()),
        qkv.KindError,
        "attend: bias must be a bias of qkv; got causal() (a mask goes to mask=)",
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(5, 7, dtype=torch.bool)),
        qkv.KindError,
        "attend: bias must be a floating tensor or a bias; got torch.bool (a boolean tensor goes to mask=)",
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(5, 7, dtype=torch.long)),
        qkv.KindError,
        "attend: bias must be a floating tensor or a bias; got torch.int64 (bias.float())",
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(5, 6)),
        qkv.ShapeError,
        ("bias: the tensor must spread out to [*batch, heads, queries, keys]; got [5, 6] (the pairs are [2, 4, 5, 7])"),
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(7)),
        qkv.ShapeError,
        ("bias: the tensor must spread out to [*batch, heads, queries, keys]; got [7] (the pairs are [2, 4, 5, 7])"),
    ),
    (
        lambda: attend(Q, K, V, bias=torch.ones(5, 7, device="meta")),
        qkv.KindError,
        "bias: the tensor must be on the query's device cpu; got meta",
    ),
    (lambda: attend(Q, K, V, bias=qkv.alibi(heads=3)), qkv.ShapeError, "alibi: heads must equal the query's 4; got 3"),
    (
        lambda: attend(Q, K, V, bias=qkv.alibi(heads=4, offset=torch.zeros(3, dtype=torch.long))),
        qkv.ShapeError,
        (
            "alibi: offset must have the shape [*batch]; got [3] (query and key have the batch [2]: [*batch, "
            "heads, positions, dim])"
        ),
    ),
    (
        lambda: attend(Q, K, V, bias=qkv.T5Relative(3)),
        qkv.ShapeError,
        "T5Relative: heads must equal the query's 4; got 3",
    ),
    (
        lambda: attend(Q, K, V, mask="causal"),
        qkv.KindError,
        "attend: mask must be a mask of qkv; got 'causal' (such as qkv.causal())",
    ),
    (
        lambda: attend(Q, K, V, mask=qkv.causal),
        qkv.KindError,
        "attend: mask must be a mask of qkv; got causal (call it: causal(...))",
    ),
    (
        lambda: attend(Q, K, V, mask=qkv.alibi(heads=4)),
        qkv.KindError,
        "attend: mask must be a mask of qkv; got alibi(heads=4) (such as qkv.causal())",
    ),
    (
        lambda: attend(Q, K, V, mask=torch.ones(5, 7)),
        qkv.KindError,
        (
            "attend: mask must be a boolean tensor or a mask; got torch.float32 (True = may attend; a tensor of "
            "numbers to add goes to bias=)"
        ),
    ),
    (
        lambda: attend(Q, K, V, mask=torch.ones(5, 6, dtype=torch.bool)),
        qkv.ShapeError,
        "dense_mask: tensor must broadcast to [*batch, heads, queries, keys] = [2, 4, 5, 7]; got [5, 6]",
    ),
    (
        lambda: attend(Q, K, V, mask=qkv.causal(offset=torch.zeros(3, dtype=torch.long))),
        qkv.ShapeError,
        (
            "causal: offset must have the shape [*batch]; got [3] (query and key have the batch [2]: [*batch, "
            "heads, positions, dim])"
        ),
    ),
    (
        lambda: attend(Q, K, V, select="softmax"),
        qkv.KindError,
        "attend: select must be a selection of qkv; got 'softmax' (such as qkv.softmax())",
    ),
    (
        lambda: attend(Q, K, V, select=qkv.softmax),
        qkv.KindError,
        "attend: select must be a selection of qkv; got softmax (call it: softmax(...))",
    ),
    (
        lambda: attend(Q, K, V, select=torch.softmax),
        qkv.KindError,
        "attend: select must be a selection of qkv; got softmax (such as qkv.softmax())",
    ),
    (
        lambda: attend(Q, K, V, select=qkv.causal()),
        qkv.KindError,
        "attend: select must be a selection of qkv; got causal() (a mask goes to mask=)",
    ),
    (
        lambda: attend(Q, K, V, select=qkv.sink(torch.zeros(3))),
        qkv.ShapeError,
        "sink: logits must hold one number, or one for each of the 4 heads; got [3]",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.cosine(torch.ones(3))),
        qkv.ShapeError,
        "cosine: temperature must hold one number, or one for each of the 4 heads; got [3]",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Bilinear(4, 8)),
        qkv.ShapeError,
        "Bilinear: query must have the width 4; got 8 ([2, 4, 5, 8])",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Bilinear(8, 4)),
        qkv.ShapeError,
        "Bilinear: key must have the width 4; got 8 ([2, 4, 7, 8])",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Bilinear(8, 8).double()),
        qkv.KindError,
        ("Bilinear: query must have the weights' dtype torch.float64; got torch.float32 (module.to(torch.float32))"),
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Bilinear(8, 8).to("meta")),
        qkv.KindError,
        "Bilinear: query must be on the weights' device meta; got cpu (module.to('cpu'))",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Additive(4, 8, 3)),
        qkv.ShapeError,
        "Additive: query must have the width 4; got 8 ([2, 4, 5, 8])",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Concat(8, 4, 3)),
        qkv.ShapeError,
        "Concat: key must have the width 4; got 8 ([2, 4, 7, 8])",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Location(4, 9)),
        qkv.ShapeError,
        "Location: query must have the width 4; got 8 ([2, 4, 5, 8])",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.Location(8, 6)),
        qkv.ShapeError,
        "Location: keys must be at most 6; got 7 (Location(query=8, keys=7))",
    ),
    (
        lambda: qkv.attend_with_map(Q, K, V[:1]),
        qkv.ShapeError,
        "attend_with_map: value must have the query's batch [2]; got [1] (value is [1, 4, 7, 8])",
    ),
    (
        lambda: qkv.attention_map(Q, K[:1]),
        qkv.ShapeError,
        "attention_map: key must have the query's batch [2]; got [1] (key is [1, 4, 7, 8])",
    ),
    (
        lambda: qkv.explain(Q, K, V, mask=torch.ones(5, 7)),
        qkv.KindError,
        (
            "explain: mask must be a boolean tensor or a mask; got torch.float32 (True = may attend; a tensor of "
            "numbers to add goes to bias=)"
        ),
    ),
    (lambda: qkv.scaled_dot(scale=NAN), qkv.ArgumentError, "scaled_dot: scale must be a finite number; got nan"),
    (lambda: qkv.scaled_dot(scale="1"), qkv.KindError, "scaled_dot: scale must be a finite number; got str"),
    (lambda: qkv.cosine(0), qkv.ArgumentError, "cosine: temperature must be a finite number > 0; got 0"),
    (lambda: qkv.cosine(-1.0), qkv.ArgumentError, "cosine: temperature must be a finite number > 0; got -1.0"),
    (lambda: qkv.cosine(INF), qkv.ArgumentError, "cosine: temperature must be a finite number > 0; got inf"),
    (lambda: qkv.cosine(True), qkv.KindError, "cosine: temperature must be a finite number > 0; got bool"),
    (
        lambda: qkv.cosine(torch.tensor(1)),
        qkv.KindError,
        "cosine: temperature must be a floating tensor; got torch.int64",
    ),
    (
        lambda: qkv.cosine(torch.ones(2, 2)),
        qkv.ShapeError,
        "cosine: temperature must have the shape [] or [heads]; got [2, 2]",
    ),
    (
        lambda: qkv.cosine(torch.tensor([0.1, 0.0])),
        qkv.ArgumentError,
        "cosine: temperature must be finite and > 0; got 0.0",
    ),
    (lambda: qkv.cosine(torch.tensor(NAN)), qkv.ArgumentError, "cosine: temperature must be finite and > 0; got nan"),
    (lambda: qkv.soft_cap(qkv.dot(), 0.0), qkv.ArgumentError, "soft_cap: cap must be a finite number > 0; got 0.0"),
    (lambda: qkv.soft_cap(qkv.dot(), NAN), qkv.ArgumentError, "soft_cap: cap must be a finite number > 0; got nan"),
    (
        lambda: qkv.soft_cap("dot", 1.0),
        qkv.KindError,
        "soft_cap: score must be a score of qkv; got 'dot' (such as qkv.scaled_dot())",
    ),
    (
        lambda: qkv.soft_cap(qkv.dot, 1.0),
        qkv.KindError,
        "soft_cap: score must be a score of qkv; got dot (call it: dot(...))",
    ),
    (
        lambda: qkv.soft_cap(None, 1.0),
        qkv.KindError,
        "soft_cap: score must be a score of qkv; got None (such as qkv.scaled_dot())",
    ),
    (lambda: qkv.Bilinear(0, 8), qkv.ArgumentError, "Bilinear: query must be >= 1; got 0"),
    (lambda: qkv.Bilinear(8, 1.5), qkv.KindError, "Bilinear: key must be an integer; got float"),
    (lambda: qkv.Additive(8, 8, 0), qkv.ArgumentError, "Additive: hidden must be >= 1; got 0"),
    (lambda: qkv.Concat(True, 8, 3), qkv.KindError, "Concat: query must be an integer; got bool"),
    (lambda: qkv.Location(8, 0), qkv.ArgumentError, "Location: keys must be >= 1; got 0 (the longest source)"),
    (lambda: qkv.alibi(0), qkv.ArgumentError, "alibi: heads must be >= 1; got 0"),
    (lambda: qkv.alibi(2.0), qkv.KindError, "alibi: heads must be an integer; got float"),
    (
        lambda: qkv.alibi(2, offset=1.5),
        qkv.KindError,
        "alibi: offset must be an integer or a tensor of integers; got float",
    ),
    (
        lambda: qkv.alibi(2, offset=torch.zeros(2)),
        qkv.KindError,
        "alibi: offset must hold integers; got torch.float32 (one position for each batch row)",
    ),
    (lambda: qkv.T5Relative(0), qkv.ArgumentError, "T5Relative: heads must be >= 1; got 0"),
    (lambda: qkv.T5Relative(2, buckets=30), qkv.ArgumentError, "T5Relative: buckets must be a multiple of 4; got 30"),
    (lambda: qkv.T5Relative(2, buckets=2), qkv.ArgumentError, "T5Relative: buckets must be >= 4; got 2"),
    (
        lambda: qkv.T5Relative(2, max_distance=8),
        qkv.ArgumentError,
        "T5Relative: max_distance must be > 8, the distances that have a bucket of their own; got 8",
    ),
    (lambda: qkv.T5Relative(2, after="no"), qkv.KindError, "T5Relative: after must be True or False; got no"),
    (
        lambda: qkv.dense_bias([[1.0]]),
        qkv.KindError,
        "dense_bias: tensor must be a floating tensor; got list (a boolean tensor goes to mask=)",
    ),
    (
        lambda: qkv.dense_bias(torch.ones(2, 2, dtype=torch.bool)),
        qkv.KindError,
        "dense_bias: tensor must be a floating tensor; got torch.bool (a boolean tensor goes to mask=)",
    ),
    (lambda: qkv.rotary(base=1.0), qkv.ArgumentError, "rotary: base must be a finite number > 1; got 1.0"),
    (lambda: qkv.rotary(base=NAN), qkv.ArgumentError, "rotary: base must be a finite number > 1; got nan"),
    (lambda: qkv.rotary(interleaved=1), qkv.KindError, "rotary: interleaved must be True or False; got 1"),
    (lambda: qkv.rotary(dim=3), qkv.ArgumentError, "rotary: dim must be even; got 3 (features turn in pairs)"),
    (lambda: qkv.rotary(dim=0), qkv.ArgumentError, "rotary: dim must be >= 2; got 0"),
    (lambda: qkv.rotary()(torch.ones(2, 3)), qkv.ShapeError, "rotary: the width must be even; got 3 ([2, 3])"),
    (lambda: qkv.rotary(dim=4)(torch.ones(2, 2)), qkv.ShapeError, "rotary: dim must be at most the width 2; got 4"),
    (
        lambda: qkv.rotary()(torch.ones(2, 4), torch.ones(2)),
        qkv.KindError,
        "rotary: positions must be a tensor of integers; got torch.float32",
    ),
    (
        lambda: qkv.rotary()(torch.ones(2, 4, dtype=torch.long)),
        qkv.KindError,
        "rotary: x must be a floating tensor; got torch.int64",
    ),
    (
        lambda: qkv.sinusoidal(3),
        qkv.ArgumentError,
        "sinusoidal: width must be even; got 3 (a sine and a cosine for each wavelength)",
    ),
    (lambda: qkv.sinusoidal(0), qkv.ArgumentError, "sinusoidal: width must be >= 2; got 0"),
    (lambda: qkv.sinusoidal(4, base=INF), qkv.ArgumentError, "sinusoidal: base must be a finite number > 1; got inf"),
    (
        lambda: qkv.sinusoidal(4)(torch.ones(2)),
        qkv.KindError,
        "sinusoidal: positions must be a tensor of integers; got torch.float32",
    ),
    (lambda: qkv.sinusoidal(4)([1, 2]), qkv.KindError, "sinusoidal: positions must be a tensor of integers; got list"),
    (lambda: qkv.LearnedPositions(0, 4), qkv.ArgumentError, "LearnedPositions: positions must be >= 1; got 0"),
    (
        lambda: qkv.LearnedPositions(4, 2)(torch.tensor([4])),
        qkv.ArgumentError,
        "LearnedPositions: positions must lie in 0..3; got 4",
    ),
    (lambda: qkv.Segments(2, 4)(torch.tensor([-1])), qkv.ArgumentError, "Segments: segments must lie in 0..1; got -1"),
    (
        lambda: qkv.Segments(2, 4)(torch.ones(2)),
        qkv.KindError,
        "Segments: segments must be a tensor of integers; got torch.float32",
    ),
    (
        lambda: qkv.rotary()(torch.ones(4)),
        qkv.ShapeError,
        "rotary: x must have the shape [*lead, positions, dim]; got [4]",
    ),
    (
        lambda: qkv.rotary()(torch.ones(2, 4), torch.arange(3)),
        qkv.ShapeError,
        "rotary: positions must broadcast to x's [2]; got [3]",
    ),
    (
        lambda: qkv.rotary()(torch.ones(2, 4), torch.zeros(5, 2, dtype=torch.long)),
        qkv.ShapeError,
        "rotary: positions must broadcast to x's [2]; got [5, 2]",
    ),
    (
        lambda: qkv.alibi(heads=4, offset=1 << 31),
        qkv.ArgumentError,
        "alibi: offset must lie between -2^31 and 2^31; got 2147483648",
    ),
    (
        lambda: qkv.T5Relative(2, offset=-(1 << 63)),
        qkv.ArgumentError,
        "T5Relative: offset must lie between -2^31 and 2^31; got -9223372036854775808",
    ),
    (
        lambda: qkv.cosine(torch.tensor(1)),
        qkv.KindError,
        "cosine: temperature must be a floating tensor; got torch.int64",
    ),
    (
        lambda: attend(Q, K, V, score=qkv.cosine(torch.ones(4, device="meta"))),
        qkv.KindError,
        "cosine: temperature must be on the query's device cpu; got meta",
    ),
    (
        lambda: qkv.scaled_dot(1e39),
        qkv.ArgumentError,
        "scaled_dot: scale must be a finite number; got 1e+39 (float32 ends at 3.4e38)",
    ),
    (
        lambda: qkv.soft_cap(qkv.dot(), 10**400),
        qkv.ArgumentError,
        "soft_cap: cap must be a finite number > 0; got 1329 bits (float32 ends at 3.4e38)",
    ),
    (lambda: qkv.topk(1 << 31), qkv.ArgumentError, "topk: k must be below 2^31; got 2147483648"),
    (lambda: qkv.topk(10**5000), qkv.ArgumentError, "topk: k must be below 2^31; got 16610 bits"),
    (lambda: attend(Q, K, V, dropout=10**400), qkv.ArgumentError, "attend: dropout must lie in [0, 1]; got 1329 bits"),
    (lambda: qkv.sink([0.0]), qkv.KindError, "sink: logits must be a floating tensor; got list (torch.zeros(heads))"),
    (
        lambda: qkv.sink(torch.zeros(2, dtype=torch.long)),
        qkv.KindError,
        "sink: logits must be a floating tensor; got torch.int64 (torch.zeros(heads))",
    ),
    (lambda: qkv.sink(torch.zeros(2, 2)), qkv.ShapeError, "sink: logits must have the shape [] or [heads]; got [2, 2]"),
    (lambda: qkv.sink(torch.tensor([0.0, NAN])), qkv.ArgumentError, "sink: logits must be finite; got nan"),
    (lambda: qkv.sink(torch.tensor(INF)), qkv.ArgumentError, "sink: logits must be finite; got inf"),
    (lambda: qkv.hard(sample=1), qkv.KindError, "hard: sample must be True or False; got 1"),
    (lambda: qkv.topk(0), qkv.ArgumentError, "topk: k must be >= 1; got 0"),
    (lambda: qkv.topk(1.5), qkv.KindError, "topk: k must be an integer; got float"),
    (lambda: qkv.sigmoid(NAN), qkv.ArgumentError, "sigmoid: bias must be a finite number; got nan"),
    (lambda: qkv.sigmoid("0"), qkv.KindError, "sigmoid: bias must be a finite number; got str"),
    (
        lambda: qkv.merge_attention([], []),
        qkv.ArgumentError,
        "merge_attention: outputs must hold at least one part; got 0",
    ),
    (
        lambda: qkv.merge_attention([V], []),
        qkv.ArgumentError,
        "merge_attention: logsumexps must hold one for each of the 1 outputs; got 0",
    ),
    (
        lambda: qkv.merge_attention([V.long()], [V[..., 0]]),
        qkv.KindError,
        "merge_attention: outputs[0] must be a floating tensor; got torch.int64",
    ),
    (
        lambda: qkv.merge_attention([V], [None]),
        qkv.KindError,
        "merge_attention: logsumexps[0] must be a floating tensor; got NoneType",
    ),
    (
        lambda: qkv.merge_attention(None, [V[..., 0]]),
        qkv.KindError,
        "merge_attention: outputs must be a list or a tuple of tensors; got NoneType",
    ),
    (
        lambda: qkv.merge_attention([V], (level for level in [V[..., 0]])),
        qkv.KindError,
        "merge_attention: logsumexps must be a list or a tuple of tensors; got generator",
    ),
    (
        lambda: qkv.merge_attention([V.to_sparse()], [V[..., 0]]),
        qkv.KindError,
        "merge_attention: outputs[0] must be a dense tensor; got torch.sparse_coo (.to_dense())",
    ),
    (
        lambda: qkv.merge_attention([V, V.double()], [V[..., 0]] * 2),
        qkv.KindError,
        "merge_attention: outputs must all have the dtype torch.float32; got torch.float64",
    ),
    (
        lambda: qkv.merge_attention([V, V], [V[..., 0], V[..., 0].to("meta")]),
        qkv.KindError,
        "merge_attention: logsumexps must all be on cpu; got meta",
    ),
    (
        lambda: qkv.merge_attention([V, V[:1]], [V[..., 0]] * 2),
        qkv.ShapeError,
        "merge_attention: outputs must all have the shape [2, 4, 7, 8]; got [1, 4, 7, 8]",
    ),
    (
        lambda: qkv.merge_attention([V], [V]),
        qkv.ShapeError,
        ("merge_attention: logsumexps must have the outputs' shape without its last, [2, 4, 7]; got [2, 4, 7, 8]"),
    ),
    (lambda: SEEN.row(5), qkv.ArgumentError, "AttentionMap.row: query must lie in 0..4; got 5"),
    (lambda: SEEN.row(1.0), qkv.KindError, "AttentionMap.row: query must be an integer; got float"),
    (lambda: SEEN.head(4), qkv.ArgumentError, "AttentionMap.head: head must lie in 0..3; got 4"),
    (lambda: SEEN.example(-3), qkv.ArgumentError, "AttentionMap.example: example must lie in 0..1; got -3"),
    (
        lambda: SEEN.example(0).head(0).example("0"),
        qkv.KindError,
        "AttentionMap.example: example must be an integer; got str",
    ),
    (
        lambda: qkv.attention_map(Q[0], K[0]).example(0),
        qkv.ShapeError,
        "AttentionMap.example: the map must have a batch; got [4, 5, 7]",
    ),
    (lambda: SEEN.top_keys(0), qkv.ArgumentError, "AttentionMap.top_keys: k must be >= 1; got 0"),
    (lambda: SEEN.top_keys(8), qkv.ArgumentError, "AttentionMap.top_keys: k must be <= 7; got 8 (that many keys)"),
    (lambda: SEEN.top_keys(True), qkv.KindError, "AttentionMap.top_keys: k must be an integer; got bool"),
    (lambda: SEEN.pooled(0, 1), qkv.ArgumentError, "AttentionMap.pooled: height must be >= 1; got 0"),
    (lambda: SEEN.pooled(6, 1), qkv.ArgumentError, "AttentionMap.pooled: height must be <= 5; got 6"),
    (lambda: SEEN.pooled(1, 8), qkv.ArgumentError, "AttentionMap.pooled: width must be <= 7; got 8"),
    (lambda: SEEN.pooled(1, 1.0), qkv.KindError, "AttentionMap.pooled: width must be an integer; got float"),
    (
        lambda: SEEN.pooled(1, 1, reduce=torch.median),
        qkv.ArgumentError,
        "AttentionMap.pooled: reduce must be torch.mean or torch.amax; got median",
    ),
    (
        lambda: SEEN.dense(limit=100),
        qkv.ArgumentError,
        (
            "AttentionMap.dense: the weights must fit in 100 bytes; got 1,120 (dense(limit=1120), or ask for "
            "less: map[..., :64, :64], map.row(i), map.pooled(512, 512), map.head(0))"
        ),
    ),
    (
        lambda: SEEN.scores(limit=100),
        qkv.ArgumentError,
        (
            "AttentionMap.scores: the weights must fit in 100 bytes; got 1,120 (scores(limit=1120), or ask for "
            "less: map[..., :64, :64], map.row(i), map.pooled(512, 512), map.head(0))"
        ),
    ),
    (lambda: SEEN[0, 0, 0, 0, 0], qkv.ShapeError, "AttentionMap[…]: the index must have at most 4 parts; got 5"),
    (
        lambda: SEEN[None],
        qkv.KindError,
        (
            "AttentionMap[…]: the index must be integers, slices that step forwards and at most one ...; got None"
            " (others: map.dense()[index])"
        ),
    ),
    (
        lambda: SEEN[[0, 1]],
        qkv.KindError,
        (
            "AttentionMap[…]: the index must be integers, slices that step forwards and at most one ...; got [0, "
            "1] (others: map.dense()[index])"
        ),
    ),
    (
        lambda: SEEN[..., ::-1],
        qkv.KindError,
        (
            "AttentionMap[…]: the index must be integers, slices that step forwards and at most one ...; got "
            "(Ellipsis, slice(None, None, -1)) (others: map.dense()[index])"
        ),
    ),
    (lambda: SEEN[2], qkv.ArgumentError, "AttentionMap[…]: the index must lie in 0..1; got 2"),
    (lambda: SEEN[0, 0, 0, 7], qkv.ArgumentError, "AttentionMap[…]: the index must lie in 0..6; got 7"),
    (
        lambda: qkv.attention_map(Q, K, select=qkv.topk(2)).logsumexp(),
        qkv.UnsupportedError,
        "logsumexp: select must be softmax(); got topk(2) (only its parts merge)",
    ),
]


@pytest.mark.unhooked
@pytest.mark.parametrize(("call", "kind", "text"), TABLE, ids=[text[:60] for _, _, text in TABLE])
def test_the_text_of_a_refusal(call: object, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as refused:
        call()  # type: ignore[operator]
    assert type(refused.value) is kind and str(refused.value) == text
    assert HOUSE_FORM.fullmatch(text)


def test_a_user_catches_what_python_would_raise() -> None:
    for kind, usual in (
        (qkv.ArgumentError, ValueError),
        (qkv.ShapeError, ValueError),
        (qkv.KindError, TypeError),
        (qkv.UnsupportedError, NotImplementedError),
        (qkv.FileError, OSError),
    ):
        assert issubclass(kind, qkv.QkvError) and issubclass(kind, usual)


@pytest.mark.unhooked
def test_autocast_casts_all_but_float64() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(Q, K.half(), V).dtype == torch.bfloat16
        with pytest.raises(qkv.KindError, match=r"key must have the query's dtype torch.float64; got torch.bfloat16"):
            attend(Q.double(), K, V)


@pytest.mark.unhooked
@pytest.mark.parametrize(("x", "weights"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_autocast_excuses_no_dtype_that_it_does_not_cast(x: torch.dtype, weights: torch.dtype) -> None:
    layer = qkv.MultiHead(8, 2).to(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text = rf"^MultiHead: x must have the weights' dtype {weights}; got {x} \(module\.to\({x}\)\)$"
        with pytest.raises(qkv.KindError, match=text):
            layer(torch.ones(1, 3, 8, dtype=x))
        assert qkv.MultiHead(8, 2)(torch.ones(1, 3, 8, dtype=torch.float16)).dtype == torch.bfloat16
