"""Tiny trainings through the command, in this process."""

import os

import pytest
import torch
from small_labs import small
from tokenizers import Tokenizer, models, pre_tokenizers

import qkv as package
from qkv import cli

__all__ = ["corpus", "folder", "qkv", "small"]

TEXT = "The cat chased a small grey mouse into its hole. The dog saw the cat and barked at it all day long.\n"


@pytest.fixture
def qkv(monkeypatch, capsys, tmp_path):
    """Run the command; give its exit status, what it printed and what it complained of."""
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["qkv", *map(str, words)])
        monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
        # The command redirects a descriptor only when the system fails it.
        monkeypatch.setattr(os, "dup2", lambda *_: None)
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code or 0
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT * 60)
    return path


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT, as it is saved: one layer of two heads."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "the", "mouse", "cat", "click"]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert = package.Bert(package.BertConfig(6, width=8, layers=1, heads=2, feed_forward=16, positions=16))
    package.save_bert(bert, tmp_path / "bert", tokenizer=tokenizer)
    return str(tmp_path / "bert")
