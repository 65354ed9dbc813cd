"""Tokenizers of a model's folder: tokenizer.json, or vocab.txt."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from qkv.folders import file_error, find_folder, listing, read_json


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """Load a tokenizer from a folder, or by its name on the Hub: tokenizer.json, else BERT's WordPiece over vocab.txt.

    It neither pads nor truncates.

    Raises: FileError for what is missing or broken.
    """
    folder = find_folder(folder, "load_tokenizer")
    whole, words = folder / "tokenizer.json", folder / "vocab.txt"
    if whole.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(whole))
        # The library raises Exception itself.
        except Exception as error:
            raise file_error("load_tokenizer", whole, "hold a tokenizer", error) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    if words.is_file():
        options = folder / "tokenizer_config.json"
        return _word_piece(words, read_json(options, "load_tokenizer") if options.is_file() else {})
    raise file_error("load_tokenizer", folder, "hold tokenizer.json or vocab.txt", listing(folder))


def _check_options(path: Path, options: Mapping[str, Any], special: Mapping[str, object]) -> None:
    """Raise FileError unless special tokens are strings and switches are true or false or null."""
    for role, token in special.items():
        if not isinstance(token, str):
            raise file_error("load_tokenizer", path, f"give {role}_token as a string", repr(token))
    for switch in ("do_lower_case", "tokenize_chinese_chars", "strip_accents"):
        if not isinstance(options.get(switch), bool | None):
            raise file_error("load_tokenizer", path, f"give {switch} as true, false or null", repr(options[switch]))


def _word_piece(path: Path, options: Mapping[str, Any]) -> Tokenizer:
    """Build BERT's tokenizer from its list of words, one a line."""
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise file_error("load_tokenizer", path, "hold words in UTF-8, one a line", error) from error
    vocabulary = {word: index for index, word in enumerate(words)}
    given = {role: options.get(f"{role}_token", f"[{role.upper()}]") for role in ("unk", "cls", "sep", "pad", "mask")}
    special: dict[str, Any] = {
        role: token.get("content") if isinstance(token, dict) else token for role, token in given.items()
    }
    _check_options(path.with_name("tokenizer_config.json"), options, special)
    unknown, start, end = special["unk"], special["cls"], special["sep"]
    lost = [token for token in (unknown, start, end) if token not in vocabulary]
    if lost:
        raise file_error("load_tokenizer", path, f"hold {', '.join(lost)}", f"{len(words)} other words")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case") is not False,
        handle_chinese_chars=options.get("tokenize_chinese_chars") is not False,
        strip_accents=options.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special.values() if token in vocabulary])
    tokenizer.post_processor = processors.BertProcessing((end, vocabulary[end]), (start, vocabulary[start]))
    return tokenizer
