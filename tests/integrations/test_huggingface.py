"""transformers' models on qkv's attention: equal to eager, with weights, gradients, caches and generation."""

import sys

import pytest
import torch

import qkv
from qkv import errors
from qkv.integrations.huggingface import attention

T = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
PAIRED = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip

ENCODERS = {
    "bert": ("BertConfig", "BertForMaskedLM", SIZES),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**SIZES, "max_position_embeddings": 64}),
    "distilbert": ("DistilBertConfig", "DistilBertForMaskedLM", {
        "vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "pad_token_id": 0,
    }),
    "clip text": ("CLIPTextConfig", "CLIPTextModel", {**SIZES, "max_position_embeddings": 64}),
}  # fmt: skip
DECODERS = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {
        "vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GROUPED),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", GROUPED),
    "mistral, a window": ("MistralConfig", "MistralForCausalLM", {**GROUPED, "sliding_window": 3}),
    "gemma2, a window and soft caps": ("Gemma2Config", "Gemma2ForCausalLM", {
        **GROUPED, "head_dim": 8, "sliding_window": 3,
    }),
    "gpt-oss, sinks": ("GptOssConfig", "GptOssForCausalLM", {
        **GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3,
    }),
}  # fmt: skip
PAIRS = {
    "bart": ("BartConfig", "BartForConditionalGeneration", {**PAIRED, "max_position_embeddings": 64}),
    "t5, relative positions": ("T5Config", "T5ForConditionalGeneration", {
        "vocab_size": 50, "d_model": 16, "d_kv": 4, "num_layers": 2, "num_heads": 4, "d_ff": 24,
        "decoder_start_token_id": 0,
    }),
}  # fmt: skip

TOKENS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
RAGGED = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])


@pytest.fixture(scope="module", autouse=True)
def registered():
    qkv.register()


def both(case):
    """Make a tiny random model twice, on eager and on qkv's attention."""
    config, model, numbers = case
    made = []
    for implementation in ("eager", "qkv"):
        torch.manual_seed(1)
        made.append(getattr(T, model)._from_config(getattr(T, config)(**numbers), attn_implementation=implementation))
    made[1].load_state_dict(made[0].state_dict())
    return [model.eval() for model in made]


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
    numbers = {**{k: v for k, v in SIZES.items() if "token" not in k and k != "vocab_size"}, "image_size": 16}
    eager, ours = both(("ViTConfig", "ViTModel", {**numbers, "patch_size": 4}))
    pictures = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(eager(pictures)[0], ours(pictures)[0])


@pytest.mark.parametrize("name", ["bert", "llama", "gpt-oss, sinks", "mistral, a window"])
def test_weights_come_when_asked_for(name):
    eager, ours = both((ENCODERS | DECODERS)[name])
    with torch.no_grad():
        expected, got = (model(TOKENS, output_attentions=True).attentions for model in (eager, ours))
        assert ours(TOKENS).attentions is None
    assert len(got) == 2
    for theirs, weights in zip(expected, got, strict=True):
        close(theirs, weights)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gemma2, a window and soft caps"])
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
