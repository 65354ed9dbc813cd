"""Any model reads: a Gpt, translators, and models of transformers from folders, each by its adapter."""

import json

import pytest
import torch
from architectures import DECODERS, ENCODERS, PAIRS, PICTURES, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import qkv
from qkv.commands.trained import load_any
from qkv.errors import ArgumentError, FileError, UnsupportedError
from qkv.integrations.architectures import load_architecture
from qkv.lens.reading import read
from qkv.lens.see import see
from qkv.models.captioner import Captioner, CaptionerConfig
from qkv.models.looking import NoAttention
from qkv.models.recurrent import Recurrent, RecurrentConfig
from qkv.text.tokenizer import END, START, train_byte_bpe


@pytest.fixture(scope="module")
def bytes_():
    return train_byte_bpe(["the cat and the mouse"], 259)


@pytest.fixture(scope="module")
def words():
    made = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(["?", START, END, *"abcdefg"])}, unk_token="?")
    )
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    made.add_special_tokens([START, END])
    return made


def gpt(vocabulary):
    torch.manual_seed(0)
    return qkv.Gpt(
        qkv.GptConfig(vocabulary=vocabulary, width=16, layers=2, heads=2, feed_forward=32, positions=32)
    ).eval()


def test_a_gpt_reads_and_letters_of_several_tokens_stay_whole(bytes_):
    reading = read(gpt(bytes_.get_vocab_size()), bytes_, "the cat 鼠")
    assert "�" not in "".join(reading.labels) and reading.labels[-3:] == ["鼠", "鼠₂", "鼠₃"]
    assert "".join(reading.text[start:stop] for start, stop in reading.spans[:-2]) == "the cat 鼠"
    assert len(reading.maps) == 2 and len(reading.hidden) == 3 and reading.weights(1).shape[1] == len(reading.labels)
    weights = reading.weights(0)
    assert torch.equal(weights, weights.tril())


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_a_translator_writes_or_is_given_the_target(words, kind, capsys, tmp_path):
    torch.manual_seed(0)
    if kind == "transformer":
        model = qkv.Transformer(qkv.TransformerConfig(vocabulary=10, width=16, layers=2, heads=2, feed_forward=32))
    else:
        model = Recurrent(RecurrentConfig(vocabulary=10, width=8))
    given = read(model.eval(), words, "a b c", "d e")
    assert given.source.labels == ["a", "b", "c", END] and given.labels == [START, "d", "e"]
    assert given.after == ["d", "e", END] and given.source.special == [False] * 3 + [True]
    assert [seen.shape[-2:] for seen in given.cross] == [(3, 4)] * (2 if kind == "transformer" else 1)
    assert len(given.maps) == len(given.source.maps) == (2 if kind == "transformer" else 0)
    written = read(model, words, "a b c")
    assert written.cross[0].shape[-2:] == (len(written.labels), 4) and written.labels[0] == START
    see([given], model="tiny", out=tmp_path / "page.html", numbers=tmp_path / "numbers.json")
    assert "“a b c” → “de”" in capsys.readouterr().out
    (pair,) = json.loads((tmp_path / "numbers.json").read_text())["pairs"]
    assert pair["tokens"] == given.after and pair["keys"] == given.source.labels and len(pair["weights"]) == 3


def test_a_translator_without_attention_cannot_be_seen(words):
    model = Recurrent(RecurrentConfig(vocabulary=10, width=8), attention=NoAttention()).eval()
    with pytest.raises(
        UnsupportedError, match=r"^watch: the model must have attention that can be recorded; got none \(it has no att"
    ):
        read(model, words, "a b", "c")


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5, relative positions", "bart"])
def test_folders_of_transformers(name, words, tmp_path, capsys):
    pytest.importorskip("transformers")
    model = tiny((ENCODERS | DECODERS | PAIRS)[name], "sdpa")
    model.save_pretrained(tmp_path / "model")
    words.save(str(tmp_path / "model" / "tokenizer.json"))
    found, tokenizer = load_any("see", str(tmp_path / "model"))
    reading = read(found, tokenizer, "a b c", "d e f" if name in PAIRS else None)
    tokens = torch.tensor([[words.token_to_id(one) for one in "abc"]])
    given = (
        {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id or 0, 6, 7]])} if name in PAIRS else {}
    )
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model(input_ids=tokens, output_attentions=True, output_hidden_states=True, **given)
    if name in PAIRS:
        expected = (theirs.encoder_attentions, theirs.decoder_attentions, theirs.cross_attentions)
        found = (reading.source.maps, reading.maps, reading.cross)
        assert reading.after == ["d", "e", "f"] and reading.source.labels == ["a", "b", "c"]
    else:
        expected, found = (theirs.attentions,), (reading.maps,)
        assert reading.labels == ["a", "b", "c"]
        torch.testing.assert_close(reading.hidden[-1], theirs.hidden_states[-1][0], rtol=0, atol=1e-5)
    for maps, weights in zip(found, expected, strict=True):
        for seen, one in zip(maps, weights, strict=True):
            torch.testing.assert_close(seen.dense(), one, rtol=0, atol=1e-5)
    see([reading], model=name, out=tmp_path / "page.html")
    assert "queries down, keys across" in capsys.readouterr().out
    if name == "bart":
        assert len(read(load_any("see", tmp_path / "model")[0], tokenizer, "a b").cross) == 2


def test_what_cannot_be_read_says_why(words, tmp_path, bytes_):
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ArgumentError, match=r"^read: target must be left out; got 'x' \(a Gpt reads one text\)$"):
        read(gpt(259), bytes_, "the", "x")
    with pytest.raises(ArgumentError, match=r"^read: target must hold something to read; got ' '$"):
        read(gpt(259), bytes_, "the", " ")
    with pytest.raises(UnsupportedError, match=r"^read: model must be one that reads text; got Linear \(a Bert, Gpt, "):
        read(torch.nn.Linear(1, 1), words, "a")
    config = CaptionerConfig(vocabulary=10, height=8, width=8)
    with pytest.raises(UnsupportedError, match=r"got Captioner \(qkv caption RUN IMAGE --see PAGE\.html shows where"):
        read(Captioner(config), words, "a")
    bloom = transformers.BloomModel(transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=4)).eval()
    with pytest.raises(UnsupportedError, match=r"^watch: .* BloomAttention computes attention itself"):
        read(bloom, words, "a b")
    with pytest.raises(ArgumentError, match=r"^read: text must have at most 64 tokens; got 65 \(the model has no more"):
        read(tiny(DECODERS["opt"]), words, "a " * 65)


def test_a_prefix_that_no_query_stands_for_is_said(words):
    transformers = pytest.importorskip("transformers")
    model = tiny(DECODERS["gpt2"])
    forward = model.forward

    def with_prefix(*given, **more):
        cache = transformers.DynamicCache()
        for layer in range(2):
            cache.update(torch.randn(1, 4, 3, 4), torch.randn(1, 4, 3, 4), layer)
        return forward(*given, past_key_values=cache, **more)

    model.forward = with_prefix
    rule = r"every layer must attend where it can be seen, and wholly; got transformer\.h\.0\.attn: only in part: "
    fix = r"the first 3 keys belong to no query seen .* \(load the model without its prefix, or see with"
    with pytest.raises(UnsupportedError, match=f"^read: {rule}{fix}"):
        read(model, words, "a b c")


def test_folders_that_are_no_models_say_what_is_wrong(tmp_path):
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    folder.mkdir()
    config = folder / "config.json"

    def refused(kind, text, **found):
        config.write_text(json.dumps(found))
        with pytest.raises(kind, match=text):
            load_any("see", folder)

    refused(
        UnsupportedError,
        r"^load_architecture: model_type in .* must be one that transformers knows; got 'evil' \(code that comes with",
        model_type="evil", auto_map={"AutoModel": "evil.Evil"},
    )  # fmt: skip
    refused(
        UnsupportedError,
        r"^load_architecture: architectures in .* must name a model of transformers; got \['Evil'\]$",
        model_type="llama", architectures=["Evil"],
    )  # fmt: skip
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    refused(
        FileError,
        r"must hold weights as safetensors; got pytorch_model\.bin \(a pickle can run any code",
        model_type="llama", architectures=["LlamaModel"],
    )  # fmt: skip
    (folder / "model.safetensors").write_bytes(b"broken")
    refused(
        FileError, r"^load_architecture: .* must hold the LlamaModel that its config\.json describes; got ",
        model_type="llama", architectures=["LlamaModel"],
    )  # fmt: skip
    tiny(PICTURES["vit"]).save_pretrained(folder)
    found = json.loads(config.read_text()) | {"num_hidden_layers": 3}
    refused(
        UnsupportedError,
        r"^see: the model in .* must read text; got ViTModel \(qkv see --model FOLDER PICTURE\.png shows what it sees",
        **found,
    )  # fmt: skip
    with pytest.raises(FileError, match=r"must hold all tensors of its model; got missing .*and \d+ more$"):
        load_architecture(folder)


def test_without_transformers(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnsupportedError, match=r"^load_architecture: transformers must be installed; got no such pack"):
        load_any("see", tmp_path)
