"""A tiny model and tokenizer to look at: two layers of two heads, words as tokens."""

import shutil
from dataclasses import dataclass

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import qkv

WORDS = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "mouse", "click", "play", "##ing", "##ed", ".", "鼠", "标"]


@pytest.fixture
def tokenizer():
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


@dataclass
class Seen:
    hidden: list
    maps: list


class TinyModel:
    """Vectors that depend on token and position; layer 1's head 1 looks at the token before."""

    positions = 512

    def encode(self, tokens, segments):
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(len(WORDS), 8, generator=generator)
        places = 0.1 * torch.randn(512, 8, generator=generator)
        hidden = [table[tokens] + places[: tokens.shape[1]]]
        maps = []
        count = tokens.shape[1]
        before = torch.zeros(2, count, count)
        before[1] = torch.diag(torch.full((count - 1,), 30.0), -1)
        for layer in range(2):
            heads = hidden[-1].unflatten(-1, (2, 4)).transpose(1, 2)
            seen = qkv.attention_map(heads, heads, bias=before if layer else None)
            maps.append(seen)
            hidden.append(hidden[-1] + (seen.dense() @ heads).transpose(1, 2).flatten(-2))
        return Seen(hidden, maps)


@pytest.fixture
def model():
    return TinyModel()


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)
    return qkv.Bert(config).eval()


FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="session")
def browser():
    """A browser for all tests of a process: Playwright cannot be started twice."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()
