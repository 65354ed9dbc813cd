"""Folders found by a path, or fetched by a name."""

import builtins
import sys
import types

import pytest

from qkv import errors
from qkv.folders import find_folder
from qkv.models.pretrained import load_bert
from qkv.text.tokenizer import load_tokenizer


@pytest.fixture
def hub(monkeypatch):
    """Stand in for huggingface_hub: `answer` is called with the name."""
    module = types.ModuleType("huggingface_hub")
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        return module.answer(name)

    module.snapshot_download, module.asked = snapshot_download, asked
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_name_is_fetched(hub, tmp_path):
    hub.answer = lambda name: str(tmp_path)
    assert find_folder("someone/a-model", "load") == tmp_path
    assert hub.asked == [("someone/a-model", ["*.json", "*.safetensors", "*.txt"])]


@pytest.mark.parametrize("load", [load_bert, load_tokenizer])
def test_offline(hub, load):
    def answer(name):
        raise ConnectionError("no route")

    hub.answer = answer
    with pytest.raises(errors.FileError) as raised:
        load("someone/a-model")
    assert str(raised.value) == (
        f"{load.__name__}: folder must be a folder, or a name that the Hugging Face Hub can be asked for; "
        "got 'someone/a-model' (ConnectionError; with a network: hf download someone/a-model --local-dir FOLDER, "
        "then give FOLDER)"
    )


def test_the_hub_itself_offline(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is an extra")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(errors.FileError, match=r"a name that the Hugging Face Hub can be asked for; got 'no/such' \("):
        find_folder("no/such", "load")


def test_without_huggingface_hub(monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "huggingface_hub":
            raise ModuleNotFoundError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.FileError) as raised:
        find_folder("someone/a-model", "load")
    assert str(raised.value) == (
        "load: folder must be a folder, as huggingface_hub is not installed; got 'someone/a-model' "
        "(pip install huggingface_hub)"
    )


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "~/x", "-x", "./" + "x" * 300])
def test_what_can_be_no_name_is_not_asked_for(hub, name):
    with pytest.raises(errors.FileError) as raised:
        find_folder(name, "load")
    text = f"load: folder must be a folder, or a model's name on the Hugging Face Hub; got {name!r}"
    assert str(raised.value) == text
    assert hub.asked == []


def test_a_file_in_the_place_of_a_folder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(errors.FileError, match="folder must be a folder, or a model's name"):
        find_folder(path, "load")
