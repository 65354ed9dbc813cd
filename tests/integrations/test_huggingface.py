"""transformers' models on qkv's attention: equal to eager, with weights, gradients, caches and generation."""

import sys

import pytest
import torch
from architectures import DECODERS, ENCODERS, PAIRED, PAIRS, PICTURE, PICTURES, RAGGED, SIZES, TOKENS, tiny

import qkv
from qkv import errors
from qkv.integrations.huggingface import ClosedMask, attention, closed_mask

T = pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def registered():
    qkv.register()


def both(case):
    """Make a tiny random model twice, on eager and on qkv's attention."""
    return tiny(case, "eager"), tiny(case, "qkv")


def close(theirs, ours):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("left", [False, True], ids=["right padding", "left padding"])
def test_what_is_no_padding_is_equal(name, left):
    eager, ours = both((ENCODERS | DECODERS)[name])
    seen = RAGGED.flip(1) if left else RAGGED
    with torch.no_grad():
        expected, got = (model(TOKENS, attention_mask=seen)[0] for model in (eager, ours))
    close(expected[seen.bool()], got[seen.bool()])


@pytest.mark.parametrize("name", PAIRS)
def test_encoders_with_decoders(name):
    with torch.no_grad():
        expected, got = (
            model(TOKENS, attention_mask=RAGGED, decoder_input_ids=TOKENS[:, :5], output_attentions=True)
            for model in both(PAIRS[name])
        )
    close(expected.logits, got.logits)
    for part in ("encoder", "decoder", "cross"):
        theirs, weights = expected[f"{part}_attentions"], got[f"{part}_attentions"]
        assert len(weights) == 2
        for one, other in zip(theirs, weights, strict=True):
            rows = RAGGED.bool() if part == "encoder" else slice(None)
            close(one.transpose(1, 2)[rows], other.transpose(1, 2)[rows])


def test_a_model_of_pictures():
    eager, ours = both(PICTURES["vit"])
    with torch.no_grad():
        close(eager(PICTURE)[0], ours(PICTURE)[0])


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_weights_come_when_asked_for(name):
    eager, ours = both((ENCODERS | DECODERS)[name])
    with torch.no_grad():
        expected, got = (model(TOKENS, output_attentions=True).attentions for model in (eager, ours))
        assert ours(TOKENS).attentions is None
    assert len(got) == 2
    for theirs, weights in zip(expected, got, strict=True):
        close(theirs, weights)


@pytest.mark.parametrize(
    "name",
    [
        "bert", "roberta", "distilbert", "electra", "gpt2", "gpt-neox", "llama", "qwen3", "mistral, a window",
        "gemma2, a window and soft caps", "gpt-oss, sinks",
    ],
)  # fmt: skip
def test_gradients_are_equal(name):
    eager, ours = both((ENCODERS | DECODERS)[name])
    for model in (eager, ours):
        model(TOKENS, attention_mask=RAGGED, labels=TOKENS.where(RAGGED.bool(), -100)).loss.backward()
    for (part, theirs), parameter in zip(eager.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, theirs.grad, rtol=0, atol=1e-5, msg=part)


@pytest.mark.parametrize("name", DECODERS)
def test_generation_is_token_for_token(name):
    eager, ours = both(DECODERS[name])
    seen = RAGGED.flip(1)
    expected, got = (
        model.generate(TOKENS, attention_mask=seen, max_new_tokens=8, do_sample=False) for model in (eager, ours)
    )
    assert torch.equal(expected, got)


def test_what_is_not_known_is_named():
    query = torch.randn(1, 1, 3, 4)
    with pytest.raises(
        errors.UnsupportedError,
        match=r"^attention: what Linear passes must be among what qkv knows; got head_mask \(another attn_implement",
    ):
        attention(torch.nn.Linear(1, 1), query, query, query, None, head_mask=torch.ones(1))
    out, weights = attention(torch.nn.Linear(1, 1), query, query, query, None, head_mask=None, use_cache=True)
    assert weights is None and out.shape == (1, 3, 1, 4)


OWN_CODE = {
    "bloom": ("BloomConfig", "BloomForCausalLM", {"vocab_size": 50, "hidden_size": 16, "n_layer": 1, "n_head": 2}),
    "xglm": ("XGLMConfig", "XGLMForCausalLM", {"vocab_size": 50, "d_model": 16, "num_layers": 1, "attention_heads": 2}),
    "roformer": ("RoFormerConfig", "RoFormerModel", SIZES),
    "longformer": ("LongformerConfig", "LongformerModel", {**SIZES, "attention_window": 4}),
    "bigbird-pegasus": (
        "BigBirdPegasusConfig",
        "BigBirdPegasusForCausalLM",
        {**PAIRED, "attention_type": "original_full"},
    ),
    "falcon": ("FalconConfig", "FalconModel", SIZES),
}


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_model_that_attends_by_itself_is_refused(name):
    """It would add our flags to its scores as 0 and 1, or never ask for a mask."""
    kind = OWN_CODE[name][1]
    rule = rf"^register: the model must compute its attention through transformers' interface; got {kind}"
    with pytest.raises(errors.UnsupportedError, match=rule):
        tiny(OWN_CODE[name], "qkv")


def test_a_model_made_of_others_is_not_refused():
    qkv.register()
    small = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    sides = (
        T.BertConfig(**small),
        T.BertConfig(**small, is_decoder=True, add_cross_attention=True),
    )
    config = T.EncoderDecoderConfig.from_encoder_decoder_configs(*sides)
    assert T.EncoderDecoderModel._from_config(config, attn_implementation="qkv") is not None


def test_a_mask_that_is_added():
    query = torch.randn(1, 2, 3, 4)
    added = torch.zeros(1, 1, 3, 3).masked_fill(~torch.ones(3, 3).tril().bool(), -torch.inf)
    out, _ = attention(torch.nn.Linear(1, 1), query, query, query, added)
    close(qkv.attend(query, query, query, mask=qkv.causal()).transpose(1, 2), out)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        errors.UnsupportedError, match=r"^register: transformers must be installed; got no such package"
    ):
        qkv.register()


# Masks in closed form


def asked(model, **given):
    """Note which masks the model's attention is asked for, while it runs."""
    from qkv.lens.calls import intercepted

    masks = []

    def note(call, run):
        masks.append(call.given["mask"])
        return run()

    with torch.no_grad(), intercepted(model, note):
        model(TOKENS, **given)
    return masks


PACKED = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]])


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("bert", {"attention_mask": RAGGED}, "padding(keys=int64[2])"),
        ("llama", {"attention_mask": RAGGED}, "(causal() & padding(keys=int64[2]))"),
        ("llama", {"attention_mask": RAGGED.flip(1)}, "(causal() & padding(keys=int64[2], left=True))"),
        ("llama", {"attention_mask": torch.eye(9)[:2].long()}, "(causal() & padding(keys=bool[2, 9]))"),
        ("llama", {}, "causal()"),
        ("mistral, a window", {}, "(window(before=2, after=9) & causal())"),
        ("llama", {"position_ids": PACKED, "use_cache": False}, "(spans(int64[2, 1, 9], int64[2, 1, 9]) & causal())"),
    ],
)  # fmt: skip
def test_masks_come_in_closed_form(name, given, expected):
    eager, ours = both((ENCODERS | DECODERS)[name])
    masks = asked(ours, **given)
    assert {str(mask) for mask in masks} == {expected}
    with torch.no_grad():
        rows = given.get("attention_mask", torch.ones(2, 9)).bool()
        close(eager(TOKENS, **given)[0][rows], ours(TOKENS, **given)[0][rows])


def test_a_closed_mask_says_what_it_is():
    from transformers.masking_utils import causal_mask_function

    mask = closed_mask(2, 3, 5, 2, mask_function=causal_mask_function)
    assert repr(mask) == "ClosedMask(causal(), [2, 1, 3, 5])"


def spelled(rule, queries, keys, offset, first, attention_mask=None):
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(
        2, queries, keys, offset, first, rule, attention_mask, allow_is_causal_skip=False, local_size=None
    )  # fmt: skip


@pytest.mark.parametrize(
    "sizes", [(9, 9, 0, 0), (1, 9, 8, 0), (3, 9, 6, 0), (9, 20, 0, 0), (1, 20, 11, 0), (1, 4, 11, 8)]
)
@pytest.mark.parametrize("padded", [None, "right", "left", "holes"])
def test_every_rule_is_spelled_as_transformers_has_it(sizes, padded):
    from transformers import masking_utils as theirs

    queries, keys, offset, first = sizes
    kept = torch.ones(2, offset + queries, dtype=torch.bool)
    if padded == "holes":
        kept[0, ::2] = False
    elif padded is not None:
        kept[0, slice(-2, None) if padded == "right" else slice(2)] = False
    for rule in (
        theirs.causal_mask_function,
        theirs.bidirectional_mask_function,
        theirs.sliding_window_causal_mask_function(4),
        theirs.sliding_window_bidirectional_mask_function(2),
        theirs.chunked_causal_mask_function(4, torch.tensor([2, 0])),
    ):
        mask = closed_mask(
            2, queries, keys, offset, first, mask_function=rule, attention_mask=None if padded is None else kept,
            allow_is_causal_skip=False,
        )  # fmt: skip
        expected = spelled(rule, queries, keys, offset, first, None if padded is None else kept)
        # A step that may be compiled gets a plain tensor.
        assert isinstance(mask, ClosedMask) is (queries > 1)
        assert torch.equal(mask.spelled() if queries > 1 else mask, expected), rule
        # What looks into it finds a dense mask.
        assert torch.equal(mask[:, :, :, :3], expected[:, :, :, :3]) and torch.equal(~mask, ~expected)
        assert torch.equal(torch.where(mask, 0.0, 1.0), torch.where(expected, 0.0, 1.0))
        assert mask.shape == expected.shape and mask.dtype == torch.bool


def test_rules_that_are_not_known_are_spelled_out():
    from transformers import masking_utils as theirs

    def odd(batch, head, query, key):
        return (query + key) % 2 == 0

    none = theirs.sliding_window_causal_mask_function(0)
    for rule in (odd, theirs.or_masks(theirs.causal_mask_function, odd), theirs.and_masks(odd), none):
        mask = closed_mask(2, 9, 9, mask_function=rule, allow_is_causal_skip=False)
        assert not isinstance(mask, ClosedMask) and torch.equal(mask, spelled(rule, 9, 9, 0, 0))


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "mistral, a window", "gpt-oss, sinks", "gemma2, a window and soft caps"]
)
def test_static_caches_generate_the_same(name):
    eager, ours = both(DECODERS[name])
    given = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
    for seen in (None, RAGGED.flip(1)):
        expected, got = (model.generate(TOKENS, attention_mask=seen, **given) for model in (eager, ours))
        assert torch.equal(expected, got)
