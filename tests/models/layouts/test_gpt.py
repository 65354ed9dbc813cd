"""GPT-2's folders, both ways with transformers: logits, greedy tokens, prefixes, shards, and what can be wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkv
from qkv import errors
from qkv.models.generation import generate
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layouts.gpt import GptLayout
from qkv.models.pretrained import load_bert, load_gpt, load_model, save_gpt, save_model

CONFIG = GptConfig(vocabulary=40, width=8, layers=2, heads=2, feed_forward=12, positions=32, end=3)
TOKENS = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is an extra")


def draw(config=CONFIG):
    torch.manual_seed(0)
    gpt = Gpt(config).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gpt


def theirs_of(transformers, name="GPT2LMHeadModel", **fields):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5,
        bos_token_id=3, eos_token_id=3, pad_token_id=3, **fields,
    )  # fmt: skip
    return getattr(transformers, name)(config).eval()


def their_tokens(theirs, tokens):
    found = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    return found[:, tokens.shape[1] :]


def our_tokens(ours, tokens):
    return torch.stack(list(generate(ours, ours.start(), tokens, new=20)), 1)


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
@pytest.mark.parametrize("inner", [None, 12])
def test_theirs_opens_here(inner, act, transformers, tmp_path):
    theirs = theirs_of(transformers, n_inner=inner, activation_function=act)
    theirs.save_pretrained(tmp_path)
    ours = load_gpt(tmp_path)
    assert ours.config.feed_forward == (inner or 32) and ours.config.tanh_gelu == (act == "gelu_new")
    assert ours.config.end == 3 and not ours.training
    with torch.no_grad():
        torch.testing.assert_close(ours.predict_tokens(ours(TOKENS)), theirs(TOKENS).logits, rtol=0, atol=1e-5)
    assert torch.equal(our_tokens(ours, TOKENS), their_tokens(theirs, TOKENS))


def test_theirs_without_a_head_opens_here(transformers, tmp_path):
    theirs = theirs_of(transformers, "GPT2Model")
    theirs.save_pretrained(tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = theirs(TOKENS).last_hidden_state
        torch.testing.assert_close(load_gpt(tmp_path)(TOKENS), expected, rtol=0, atol=1e-5)


def test_their_shards_open_here(transformers, tmp_path):
    theirs = theirs_of(transformers)
    theirs.save_pretrained(tmp_path, max_shard_size=2000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours = load_model(tmp_path)
    assert isinstance(ours, Gpt)
    with torch.no_grad():
        torch.testing.assert_close(ours.predict_tokens(ours(TOKENS)), theirs(TOKENS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tanh", [True, False])
def test_ours_opens_there(tanh, transformers, tmp_path):
    ours = draw(GptConfig(40, 8, 2, 2, 12, 32, tanh_gelu=tanh, end=3))
    save_gpt(ours, tmp_path / "new")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(theirs).__name__ == "GPT2LMHeadModel" and theirs.config.eos_token_id == 3
    with torch.no_grad():
        expected = theirs.eval()(TOKENS).logits
        torch.testing.assert_close(ours.predict_tokens(ours(TOKENS)), expected, rtol=0, atol=1e-5)
    assert torch.equal(our_tokens(ours, TOKENS), their_tokens(theirs, TOKENS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_round_trip_changes_nothing(dtype, tmp_path):
    gpt = draw().to(dtype)
    save_model(gpt, tmp_path)
    again = load_gpt(tmp_path)
    assert again.config == gpt.config
    for name, parameter in gpt.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
        assert again.get_parameter(name).is_contiguous(), name


def test_query_key_and_value_lie_in_one_matrix_turned():
    gpt = draw()
    theirs = GptLayout().theirs(gpt.state_dict())
    attention = gpt.layers[1].attention
    matrices = [getattr(attention, name).weight for name in ("query", "key", "value")]
    assert torch.equal(theirs["h.1.attn.c_attn.weight"], torch.cat([matrix.T for matrix in matrices], 1))
    assert theirs["h.1.mlp.c_fc.weight"].shape == (8, 12)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    save_gpt(draw(), tmp_path)
    return tmp_path


def test_reads_old_files(folder):
    def age(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    rewrite(folder, age)
    assert torch.equal(load_gpt(folder)(TOKENS), draw()(TOKENS))


def test_a_loaded_model_learns(folder):
    gpt = load_gpt(folder)
    loss, count = gpt.loss(TOKENS, TOKENS)
    loss.backward()
    assert count == 14 and all(parameter.grad is not None for parameter in gpt.parameters())


def test_another_head_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(40, 8)}))
    with pytest.raises(errors.UnsupportedError) as raised:
        load_gpt(folder)
    text = "load_gpt: lm_head.weight must be the token embedding, transposed (tied); got another matrix"
    assert str(raised.value) == text


def test_wrong_tensors_are_named(folder):
    def spoil(tensors):
        del tensors["transformer.h.0.ln_1.bias"]
        tensors["transformer.h.1.attn.c_attn.bias"] = torch.zeros(23)
        tensors["score.weight"] = torch.zeros(2, 8)

    rewrite(folder, spoil)
    with pytest.raises(errors.FileError) as raised:
        load_model(folder)
    assert str(raised.value) == (
        f"load_model: {folder} must hold the tensors that its config.json describes; got h.1.attn.c_attn.bias "
        "torch.float32 [23], not floating [24]; missing h.0.ln_1.bias; unknown score.weight"
    )


@pytest.mark.parametrize("cut", [7, 1000])
def test_a_truncated_file(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(errors.FileError) as raised:
        load_gpt(folder)
    assert str(raised.value).startswith(f"load_gpt: {path} must be whole, in the safetensors format; got ")


@pytest.mark.parametrize(
    "field, value, rule",
    [
        ("scale_attn_by_inverse_layer_idx", True, "be False"),
        ("scale_attn_weights", False, "be True"),
        ("tie_word_embeddings", False, "be True"),
        ("add_cross_attention", True, "be False"),
        (
            "activation_function",
            "relu",
            "be 'gelu_new' or 'gelu_pytorch_tanh' or 'gelu_fast' or 'gelu' or 'gelu_python'",
        ),
    ],
)
def test_what_ours_does_not_compute_is_refused(folder, field, value, rule):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(errors.UnsupportedError) as raised:
        load_gpt(folder)
    assert str(raised.value) == f"load_gpt: {field} in {path} must {rule}; got {value!r}"


@pytest.mark.unhooked
@pytest.mark.parametrize("field, value", [("n_embd", "8"), ("eos_token_id", [1, 2]), ("n_head", 3)])
def test_a_config_that_describes_nothing(folder, field, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(errors.FileError, match=r"config\.json must describe a GPT-2; got GptConfig: "):
        load_gpt(folder)


def test_kinds_are_told_apart(folder):
    with pytest.raises(errors.UnsupportedError, match=r"load_bert: model_type in .* must be 'bert'; got 'gpt2'$"):
        load_bert(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(errors.UnsupportedError, match=r"load_model: .* must be 'bert' or 'gpt2' or .*; got 'llama'$"):
        load_model(folder)


def test_other_choices_have_no_place_there(tmp_path):
    gpt = Gpt(CONFIG, positions=qkv.rotary())
    with pytest.raises(errors.UnsupportedError) as raised:
        save_gpt(gpt, tmp_path)
    assert str(raised.value) == (
        "save_gpt: the model must have the paper's norms, positions, score and selection, as Hugging Face's layout "
        "names no others; got other choices (save_model keeps such a model)"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.unhooked
def test_a_model_of_no_kind(tmp_path):
    with pytest.raises(errors.UnsupportedError) as raised:
        save_model(torch.nn.Linear(2, 2), tmp_path)
    text = "save_model: model must be one of Bert, Gpt, Transformer, Recurrent, Captioner; got Linear"
    assert str(raised.value) == text
