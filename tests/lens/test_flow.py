"""Attention is followed through the layers."""

import architectures
import pytest
import torch

import qkv
from qkv.errors import ArgumentError, ShapeError, UnsupportedError
from qkv.lens.flow import Flow, reached, residual_share, rollout


def map_of(weights):
    """A map whose weights [heads, queries, keys] are given."""
    still = torch.zeros(1, weights.shape[0], weights.shape[1], 1)
    return qkv.attention_map(still, still, bias=weights.log()[None])


def test_rollout_checked_by_hand():
    # Two heads: one looks back, one at itself; their mean is half of each. Row 0 has itself alone.
    first = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    shares = rollout([map_of(first), map_of(first)])
    # ½ A + ½ I = [[1, 0], [1/4, 3/4]], and its square.
    expected = torch.tensor([[[1, 0], [1 / 4, 3 / 4]], [[1, 0], [7 / 16, 9 / 16]]])
    torch.testing.assert_close(shares[:, 0], expected)


def test_rollout_is_the_product_of_the_layers(monkeypatch):
    torch.manual_seed(0)
    maps = [
        qkv.attention_map(torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4), mask=qkv.causal() & padding)
        for padding in [qkv.padding(keys=torch.tensor([6, 4]))] * 3
    ]
    expected = torch.eye(6)
    for seen in maps:
        expected = (0.5 * seen.dense().mean(-3) + 0.5 * torch.eye(6)) @ expected
    shares = rollout(maps)
    torch.testing.assert_close(shares[-1], expected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, 2, 6))
    assert (shares.triu(1) == 0).all()
    monkeypatch.setattr("qkv.lens.heads.TILE_NUMBERS", 1)
    torch.testing.assert_close(rollout(maps), shares)


def test_a_row_without_a_key_keeps_what_it_has():
    still = torch.zeros(1, 1, 3, 1)
    seen = qkv.attention_map(still, still, mask=qkv.padding(keys=torch.tensor([2]), queries=torch.tensor([2])))
    assert rollout([seen, seen])[:, 0, 2].tolist() == [[0, 0, 1]] * 2


def test_what_is_no_stack_is_refused():
    still, more = torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 4, 1)
    seen = qkv.attention_map(still, still)
    with pytest.raises(ArgumentError, match=r"^rollout: maps must hold a map for each layer; got none$"):
        rollout([])
    rule = r"have 3 queries and as many keys, of the batch \[1\]; got \[1, 1, 3, 4\]$"
    with pytest.raises(ShapeError, match=r"^rollout: maps\[1\] must " + rule):
        rollout([seen, qkv.attention_map(still, more)])
    rule = r"fit in 10 bytes; got 36 \(rollout\(limit=36\), or a shorter text\)$"
    with pytest.raises(ArgumentError, match=r"^rollout: the shares must " + rule):
        rollout([seen], limit=10)


TOKENS = torch.tensor([[1, 3, 4, 5, 2], [1, 6, 3, 7, 2]])


def test_the_share_checked_by_hand():
    flow = Flow("a", 0, torch.tensor([3.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert flow.share.tolist() == [0.75, 1, 1]


@pytest.mark.parametrize("placement", [qkv.pre_norm(), qkv.post_norm()])
def test_what_attention_adds_beside_the_stream(placement):
    torch.manual_seed(0)
    config = qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)
    bert = qkv.Bert(config, placement=placement)
    flows = residual_share(bert, TOKENS)
    assert bert.training and [(one.name, one.layer) for one in flows] == [
        ("layers.0.attention", 0), ("layers.1.attention", 1)
    ]  # fmt: skip
    bert.eval()
    with torch.no_grad():
        x = bert.embeddings(TOKENS, torch.zeros_like(TOKENS), torch.arange(5))
        for flow, block in zip(flows, bert.layers, strict=True):
            inner = block.attention_residual.norm(x) if placement == qkv.pre_norm() else x
            torch.testing.assert_close(flow.stream, x.norm(dim=-1))
            torch.testing.assert_close(flow.added, block.attention(inner).norm(dim=-1))
            x = block(x)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5, relative positions"])
def test_models_of_transformers_have_shares(name):
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = architectures.tiny((architectures.ENCODERS | architectures.DECODERS | architectures.PAIRS)[name], "eager")
    batch = {"input_ids": TOKENS}
    if name.startswith("t5"):
        batch["decoder_input_ids"] = TOKENS
    flows = residual_share(model, batch)
    assert len(flows) == (4 if name.startswith("t5") else 2)
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True)
    hidden = hidden.encoder_hidden_states if name.startswith("t5") else hidden.hidden_states
    for flow, x in zip(flows[:2], hidden[:2], strict=True):
        torch.testing.assert_close(flow.stream, x.norm(dim=-1))
    assert all(((flow.share > 0) & (flow.share < 1)).all() for flow in flows)


def test_a_model_without_layers_is_refused():
    rule = r"hold self-attention in a list of layers, each with a linear layer after its heads; got "
    with pytest.raises(UnsupportedError, match=rf"^residual_share: model must {rule}Linear$"):
        residual_share(torch.nn.Linear(2, 2), torch.zeros(1, 2))


def test_what_reaches_one_position_is_a_row_of_the_rollout(monkeypatch):
    torch.manual_seed(0)
    mask = qkv.causal() & qkv.padding(keys=torch.tensor([6, 4]), queries=torch.tensor([6, 4]))
    maps = [qkv.attention_map(torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4), mask=mask) for _ in range(3)]
    monkeypatch.setattr("qkv.lens.heads.TILE_NUMBERS", 1)
    for query in range(6):
        torch.testing.assert_close(reached(maps, query), rollout(maps)[-1, :, query])
    with pytest.raises(ArgumentError, match=r"^reached: query must lie in 0\.\.5; got 6$"):
        reached(maps, 6)
    with pytest.raises(ArgumentError, match=r"^reached: maps must hold a map for each layer; got none$"):
        reached([], 0)
