"""Tokenizers of a model's folder, and those made from a user's own texts.

tokenizer = load_tokenizer(folder)                          # tokenizer.json, vocab.txt, or vocab.json and merges.txt
tokenizer = train_byte_bpe(texts, 8000)                     # GPT's
tokenizer = train_wordpiece(texts, 8000)                    # BERT's
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece

from qkv.core.checks import check_number, check_whole
from qkv.errors import ArgumentError, must
from qkv.folders import file_error, find_folder, listing, read_json
from qkv.text.corpus import encodable

END_OF_TEXT = "<|endoftext|>"
"""What GPT-2 puts between documents."""
START, END = "<s>", "</s>"
"""What a translation begins and ends with."""
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_log = logging.getLogger("qkv")

LONGEST_WORD = 100
"""Characters of the longest word that BERT's tokenizer cuts into pieces; a longer one is unknown to it."""


def load_tokenizer(folder: str | PathLike[str]) -> Tokenizer:
    """Load a tokenizer from a folder, or by its name on the Hub.

    That is tokenizer.json, else BERT's WordPiece over vocab.txt, else GPT-2's bytes over vocab.json and merges.txt.

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
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_bpe(folder)
    rule = "hold tokenizer.json, vocab.txt, or vocab.json and merges.txt"
    raise file_error("load_tokenizer", folder, rule, listing(folder))


def train_byte_bpe(
    texts: Iterable[str], vocabulary: int, *, special: Sequence[str] = (END_OF_TEXT,), fewer: bool = False
) -> Tokenizer:
    """Make GPT-2's kind of tokenizer: pairs of bytes merged, the most frequent first. No text is unknown to it.

    If the texts give fewer tokens than the vocabulary, `fewer` takes those.

    Paper: Sennrich et al. 2016, arXiv:1508.07909, section 3.2; on bytes, Radford et al. 2019, section 2.2.
    Raises: ArgumentError if the vocabulary has no room for the 256 bytes, or if the texts give fewer tokens and that is
    not asked for.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_room("train_byte_bpe", vocabulary, len(special) + len(alphabet), "special tokens and bytes")
    tokenizer = _with_bytes(BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(encodable, texts), trainer)
    return _check_reached("train_byte_bpe", vocabulary, tokenizer, fewer)


def train_wordpiece(
    texts: Iterable[str],
    vocabulary: int,
    *,
    special: Sequence[str] = BERT_SPECIAL,
    lowercase: bool = False,
    alphabet: int | None = None,
    coverage: float = 1.0,
    fewer: bool = False,
) -> Tokenizer:
    """Make BERT's kind of tokenizer: words cut into pieces, `##` before each that begins no word; 汉字 stand alone.

    `alphabet` is how many characters are kept, the most frequent, at most. With a `coverage` below 1 fewer are: those
    that make up this share of the texts, as far as the vocabulary has room. A word with another character is unknown,
    and the log says how much of the texts that is. The special tokens are named as BERT's are, and hold at least [UNK],
    [CLS] and [SEP]. If the texts give fewer tokens than the vocabulary, `fewer` takes those.

    Paper: Devlin et al. 2019, arXiv:1810.04805, section 3; pieces as in Wu et al. 2016, arXiv:1609.08144, section 4.1.
    Raises: ArgumentError if a special token is missing, if the vocabulary has no room for the characters, or if the
    texts give fewer tokens and that is not asked for; KindError, ArgumentError unless coverage lies in (0, 1].
    """
    if lost := [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in special]:
        raise ArgumentError(must("train_wordpiece", "special", "hold [UNK], [CLS] and [SEP]", f"no {', '.join(lost)}"))
    if alphabet is not None:
        check_whole("train_wordpiece", "alphabet", alphabet, 1, "characters to keep")
    check_number("train_wordpiece", "coverage", coverage, "a number in (0, 1]", above=0.0)
    if coverage > 1:
        raise ArgumentError(must("train_wordpiece", "coverage", "be a number in (0, 1]", coverage))
    normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    cut = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in map(encodable, texts):
        words.update(word for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text)))
    letters: Counter[str] = Counter()
    for word, count in words.items():
        letters.update(dict.fromkeys(word, count))
    frequent = sorted(letters, key=lambda letter: (-letters[letter], letter))[:alphabet]
    if coverage < 1:
        frequent = _covering(frequent, letters, words, coverage, vocabulary - len(special))
    kept, all_words = set(frequent), words
    words = Counter({word: n for word, n in words.items() if len(word) <= LONGEST_WORD and kept.issuperset(word)})
    _tell_unknown(all_words, words, len(kept), len(letters))
    # The library numbers single pieces in the order of a hash table, another one in each process, and breaks ties by
    # these numbers. Given as special tokens, they have an order.
    inner = {letter for word in words for letter in word[1:]}
    pieces = [*special, *sorted(kept), *(f"##{letter}" for letter in sorted(inner))]
    _check_room(
        "train_wordpiece", vocabulary, len(pieces), "special tokens and characters", "or give a smaller alphabet"
    )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=pieces, show_progress=False
    )
    learner = Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(words), trainer)
    roles = {token.strip("[]").lower(): token for token in special}
    return _check_reached("train_wordpiece", vocabulary, _bert(learner.get_vocab(), roles, normalizer), fewer)


def train_unigram(
    texts: Iterable[str], vocabulary: int, *, special: Sequence[str] = ("<unk>", START, END), fewer: bool = False
) -> Tokenizer:
    """Make a Unigram tokenizer: the pieces under which the texts are most likely. The first special token is unknown.

    If the texts give fewer tokens than the vocabulary, `fewer` takes those.

    Spaces are marked, so languages without them need no other treatment. The library adds probabilities in the order of
    a hash table: two trainings can differ in pieces that are as likely as one another. Keep the one you trained.

    Paper: Kudo 2018, arXiv:1804.10959, section 3.2.
    Raises: ArgumentError if there is no special token, if the vocabulary has no room for the characters, or if the
    texts give fewer tokens and that is not asked for.
    """
    if not special:
        raise ArgumentError(must("train_unigram", "special", "hold a token for what is unknown", "none"))
    check_whole("train_unigram", "vocabulary", vocabulary, 1, "tokens")
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    letters: set[str] = {"▁"}

    def watched() -> Iterator[str]:
        for text in map(encodable, texts):
            letters.update(text)
            yield text

    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=list(special), unk_token=special[0], show_progress=False
    )
    problem = None
    try:
        tokenizer.train_from_iterator(watched(), trainer)
    # The library raises Exception itself where there is no room, and where there is little it takes more.
    except Exception as error:
        problem = error
    _check_room("train_unigram", vocabulary, len(special) + len(letters - {" "}), "special tokens and characters")
    if problem is not None:
        raise problem
    return _check_reached("train_unigram", vocabulary, tokenizer, fewer)


def words(texts: Iterable[str], vocabulary: int, *, special: Sequence[str], unknown: str) -> Tokenizer:
    """Make a tokenizer with one token for each of the most frequent words, in lower case.

    Punctuation and 汉字 stand alone. Other words, and those that stand there once, are the special token `unknown`. Few
    words give a smaller vocabulary.

    Raises: ArgumentError if `unknown` is no special token, if the vocabulary has room for those alone, or if the texts
    hold no word.
    """
    _check_unknown("words", special, unknown)
    _check_room("words", vocabulary, len(special) + 1, "special tokens and a word")
    normalizer, cut = normalizers.BertNormalizer(lowercase=True, strip_accents=False), pre_tokenizers.BertPreTokenizer()
    found = Counter(
        word for text in map(encodable, texts) for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text))
    )
    if not found:
        raise ArgumentError(must("words", "texts", "hold a word", "none"))
    least = min(2, max(found.values()))
    kept = sorted((word for word, count in found.items() if count >= least), key=lambda word: (-found[word], word))
    names = [*special, *(word for word in kept if word not in special)][:vocabulary]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(names)}, unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def characters(texts: Iterable[str], *, special: Sequence[str] = ("[UNK]",), unknown: str = "[UNK]") -> Tokenizer:
    """Make a tokenizer with one token for each character of the texts; others are the special token `unknown`.

    Raises: ArgumentError if `unknown` is no special token, or the texts hold no character.
    """
    _check_unknown("characters", special, unknown)
    letters: set[str] = set()
    for text in map(encodable, texts):
        letters.update(text)
    if not letters:
        raise ArgumentError(must("characters", "texts", "hold a character", "none"))
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(letters)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _check_unknown(function: str, special: Sequence[str], unknown: str) -> None:
    if unknown not in special:
        raise ArgumentError(must(function, "special", f"hold {unknown}, for what is unknown", list(special)))


def _covering(
    frequent: Sequence[str], letters: Mapping[str, int], words: Iterable[str], coverage: float, room: int
) -> list[str]:
    """Give the first of the letters that make up this share of the texts, or all that there is room for."""
    inner = {letter for word in words for letter in word[1:]}
    missing, covering = coverage * sum(letters.values()), list[str]()
    for letter in frequent:
        room -= 1 + (letter in inner)
        if missing <= 0 or room < 0:
            break
        missing -= letters[letter]
        covering.append(letter)
    return covering


def _tell_unknown(words: Mapping[str, int], known: Mapping[str, int], kept: int, letters: int) -> None:
    """Say in the log what share of the texts' characters stands in words that are unknown."""
    every, found = (sum(len(word) * count for word, count in some.items()) for some in (words, known))
    if found < every:
        text = "qkv: train_wordpiece: %.2g%% of the texts is unknown to the tokenizer, which keeps %s of %s characters"
        _log.warning(text, 100 * (1 - found / every), kept, letters)


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Give each word as often as it was counted, in pieces of a size that fits any memory."""
    for word, count in sorted(words.items()):
        for start in range(0, count, 10_000):
            yield " ".join([word] * min(10_000, count - start))


def _check_room(function: str, vocabulary: int, least: int, what: str, fix: str = "") -> None:
    check_whole(function, "vocabulary", vocabulary, 1, "tokens")
    if vocabulary < least:
        raise ArgumentError(must(function, "vocabulary", f"be >= {least}, the {what}", vocabulary, fix))


def _check_reached(function: str, vocabulary: int, tokenizer: Tokenizer, fewer: bool) -> Tokenizer:
    if (most := tokenizer.get_vocab_size()) < vocabulary:
        if fewer:
            _log.warning("qkv: %s: %s tokens, all that the texts give, not %s", function, most, vocabulary)
            return tokenizer
        fix = "a larger vocabulary needs more text"
        raise ArgumentError(must(function, "vocabulary", f"be <= {most}, all that the texts give", vocabulary, fix))
    return tokenizer


def _with_bytes(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_bpe(folder: Path) -> Tokenizer:
    """Build GPT-2's tokenizer from its tokens and its merges."""
    names, pairs = folder / "vocab.json", folder / "merges.txt"
    vocabulary = read_json(names, "load_tokenizer")
    if not all(type(index) is int and 0 <= index < 1 << 32 for index in vocabulary.values()):
        raise file_error("load_tokenizer", names, "give a number for each token", "something else")
    try:
        lines = pairs.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise file_error("load_tokenizer", pairs, "hold merges in UTF-8, one a line", error) from error
    merges = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not (number == 1 and line.startswith("#version")):
            pair = line.rstrip("\r").split(" ")
            if len(pair) != 2:
                raise file_error("load_tokenizer", pairs, "hold two tokens a line", repr(line[:80]), f"line {number}")
            merges.append((pair[0], pair[1]))
    try:
        tokenizer = _with_bytes(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    # The library raises Exception itself.
    except Exception as error:
        raise file_error("load_tokenizer", pairs, "merge tokens of vocab.json", error) from error
    options = folder / "tokenizer_config.json"
    given = read_json(options, "load_tokenizer") if options.is_file() else {}
    if type(spaced := given.get("add_prefix_space", False)) is not bool:
        raise file_error("load_tokenizer", options, "give add_prefix_space as true or false", repr(spaced))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    special = _special(options, given, dict.fromkeys(("unk", "bos", "eos"), END_OF_TEXT))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in dict.fromkeys(special.values()) if token in vocabulary]
    )
    return tokenizer


def _special(path: Path, options: Mapping[str, Any], defaults: Mapping[str, str]) -> dict[str, str]:
    """Read the special tokens by their roles. Raises: FileError unless they are strings."""
    special = {}
    for role, default in defaults.items():
        given = options.get(f"{role}_token", default)
        token = given.get("content") if isinstance(given, dict) else given
        if not isinstance(token, str):
            raise file_error("load_tokenizer", path, f"give {role}_token as a string", repr(token))
        special[role] = token
    return special


def _word_piece(path: Path, options: Mapping[str, Any]) -> Tokenizer:
    """Build BERT's tokenizer from its list of words, one a line."""
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise file_error("load_tokenizer", path, "hold words in UTF-8, one a line", error) from error
    vocabulary = {word: index for index, word in enumerate(words)}
    config = path.with_name("tokenizer_config.json")
    special = _special(config, options, {role: f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")})
    for switch in ("do_lower_case", "tokenize_chinese_chars", "strip_accents"):
        if not isinstance(options.get(switch), bool | None):
            raise file_error("load_tokenizer", config, f"give {switch} as true, false or null", repr(options[switch]))
    lost = [token for token in (special["unk"], special["cls"], special["sep"]) if token not in vocabulary]
    if lost:
        raise file_error("load_tokenizer", path, f"hold {', '.join(lost)}", f"{len(words)} other words")
    normalizer = normalizers.BertNormalizer(
        lowercase=options.get("do_lower_case") is not False,
        handle_chinese_chars=options.get("tokenize_chinese_chars") is not False,
        strip_accents=options.get("strip_accents"),
    )
    return _bert(vocabulary, special, normalizer)


def _bert(vocabulary: dict[str, int], special: Mapping[str, str], normalizer: normalizers.BertNormalizer) -> Tokenizer:
    """Put BERT's tokenizer together."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=special["unk"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special.values() if token in vocabulary])
    start, end = special["cls"], special["sep"]
    tokenizer.post_processor = processors.BertProcessing((end, vocabulary[end]), (start, vocabulary[start]))
    return tokenizer
