"""A sink takes its share of every row."""

import torch

import qkv


def test_a_sink_scales_the_output() -> None:
    query, key, value = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    logits = torch.tensor([0.5, -2.0], dtype=torch.float64)
    plain, seen = qkv.attend_with_map(query, key, value)
    share = torch.sigmoid(seen.logsumexp() - logits[:, None])
    torch.testing.assert_close(qkv.attend(query, key, value, select=qkv.sink(logits)), plain * share[..., None])
    seen = qkv.attention_map(query, key, select=qkv.sink(logits))
    torch.testing.assert_close(seen.head(1).dense()[0], seen.dense()[1])
