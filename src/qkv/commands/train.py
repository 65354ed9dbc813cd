"""`qkv train`: a kind of model, a corpus, a recipe, and the loop."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qkv.commands.trained import load
from qkv.errors import ArgumentError, FileError, must
from qkv.folders import find_folder
from qkv.models.captioner import SHRINK, Captioner
from qkv.text import pictures
from qkv.text.tokenizer import (
    END,
    END_OF_TEXT,
    START,
    characters,
    load_tokenizer,
    train_byte_bpe,
    train_unigram,
    train_wordpiece,
    words,
)
from qkv.training.devices import leave_group
from qkv.training.loop import Outcome, train
from qkv.training.prepared import Makes, prepare_pairs, prepare_pictures, prepare_texts
from qkv.training.recipe import Recipe
from qkv.training.run import open_run
from qkv.training.tasks import bert, caption, gpt, translate
from qkv.training.tasks.placements import PLACEMENTS

PRESETS = {"bert": bert.PRESETS, "gpt": gpt.PRESETS, "translate": translate.PRESETS, "caption": caption.PRESETS}

PLACED = tuple(PLACEMENTS)

CHOICES: dict[str, dict[str, tuple[str, ...] | None]] = {
    "bert": {"objective": bert.OBJECTIVES, "next_sentence": None, "tokenizer": None, "placement": PLACED},
    "gpt": {"tokenizer": None, "position_kind": tuple(gpt.POSITIONS), "placement": PLACED},
    "translate": {
        "attention": tuple(translate.ATTENTIONS),
        "cell": tuple(translate.CELLS),
        "tokenizer": None,
        "placement": PLACED,
    },
    "caption": {"attention": tuple(caption.ATTENTIONS), "start": None, "tokenizer": None, "pixels": None},
}
"""What each kind can be told beside its numbers, and the names that are known."""

MAY_CHANGE = ("steps", "every")
"""Numbers of a recipe that a run may change when it goes on."""

COVERAGE = 0.9999
"""Share of a text's characters that BERT's tokenizer keeps, at least, where its vocabulary has room."""

KEPT = ("seed", "precision", "tensorboard", "watch_gradients")
"""Options of the loop that a run keeps when it goes on, unless others are given."""

PIXELS = 64
"""The side of a picture as a captioner sees it, where a user's own are given."""


def begin(
    kind: str,
    data: str | None,
    out: Path,
    *,
    preset: str | None = None,
    resume: bool = False,
    numbers: Mapping[str, Any],
    choices: Mapping[str, Any],
    loop: Mapping[str, Any],
) -> Outcome:
    """Train a model into a run's folder, or go on with one.

    `numbers` change the recipe, `choices` say which model, `loop` are options of the loop. A run that goes on takes its
    data, its recipe, its choices, its seed and its precision from its folder.

    Raises: ArgumentError for what is not known or does not fit; FileError for data that is none; as `train`.
    """
    if kind not in PRESETS:
        raise ArgumentError(must("train", "KIND", f"be one of {', '.join(PRESETS)}", repr(kind)))
    for name, value in choices.items():
        _check_choice(kind, name, value)
    if "attention" in choices and "placement" in choices:
        rule, fix = "be left out beside --attention", "a recurrent model has no norms to place"
        raise ArgumentError(must(f"train {kind}", "--placement", rule, repr(choices["placement"]), fix))
    if "cell" in choices and "attention" not in choices and not resume:
        rule, fix = "come with --attention", "a Transformer has no cells"
        raise ArgumentError(must(f"train {kind}", "--cell", rule, repr(choices["cell"]), fix))
    if resume:
        before = _begun(kind, out)
        was = {**before["recipe"], **dict.fromkeys(CHOICES[kind]), **before["choices"], "preset": before.get("preset")}
        for name, value in {**numbers, **choices, **({"preset": preset} if preset else {})}.items():
            _check_unchanged(name, value, was[name], before["recipe"]["schedule"])
        data = before["data"] if data is None else data
        recipe, choices, loop = Recipe(**before["recipe"]), before["choices"], {**before["loop"], **loop}
    else:
        before, preset = {}, preset or "quick"
        if preset not in PRESETS[kind]:
            raise ArgumentError(must("train", "--preset", f"be one of {', '.join(PRESETS[kind])}", repr(preset)))
        recipe = PRESETS[kind][preset]
    recipe = replace(recipe, **numbers)
    has_heads = kind in ("bert", "gpt") or (kind == "translate" and "attention" not in choices)
    if has_heads and recipe.width % recipe.heads:
        raise ArgumentError(must(f"train {kind}", "--heads", f"divide the width {recipe.width}", recipe.heads))
    options = recipe.options(**loop)
    task, identity = make_task(kind, data, recipe, choices, options.seed, before.get("corpus"))
    # A run may go on from another folder.
    place = data if data is None or data.startswith("datasets:") else os.path.abspath(data)
    about: dict[str, Any] = {"data": place, "corpus": identity, "recipe": recipe.record(), "choices": dict(choices)}
    about |= {"preset": preset}
    if resume:
        # What a run may change when it goes on is not part of what it is about; of the data, the corpus is.
        about["recipe"] |= {name: before["recipe"][name] for name in MAY_CHANGE}
        about |= {name: before.get(name) for name in ("data", "preset")}
    outcome = train(task, out, options, resume=resume, about=about)
    leave_group()
    return outcome


def make_task(
    kind: str,
    data: str | None,
    recipe: Recipe,
    choices: Mapping[str, Any],
    seed: int,
    begun: str | None = None,
) -> tuple[Any, str | None]:
    """Make the corpus ready and the model, drawn by the seed; give the task, and the name of the corpus.

    Raises: as `begin`; FileError if it is not the corpus that a run has begun with.
    """
    others = {name: value for name, value in choices.items() if name != "tokenizer"}
    if kind == "caption":
        return _caption_task(data, recipe, choices, seed, begun)
    name = choices.get("tokenizer") or {"bert": "wordpiece", "gpt": "bpe"}.get(kind, "bpe" if data else "characters")
    make, how = _maker(kind, name, recipe.vocabulary)
    if kind == "translate":
        prepared = prepare_pairs(data, make, how, longest=recipe.positions, begun=begun)
    elif kind == "bert":
        prepared = prepare_texts(data, make, how, prose=True, begun=begun)
    else:
        prepared = prepare_texts(data, make, how, start=END_OF_TEXT, begun=begun)
    torch.manual_seed(seed)
    makes: Any = {"translate": translate.TranslateTask, "bert": bert.BertTask, "gpt": gpt.GptTask}[kind]
    parts = (prepared.training, prepared.held_out)
    if kind != "translate":
        parts = (prepared.training[0], prepared.held_out[0])  # type: ignore[assignment]
    return makes(recipe, prepared.tokenizer, *parts, **others, seed=seed), prepared.identity


def _caption_task(
    data: str | None, recipe: Recipe, choices: Mapping[str, Any], seed: int, begun: str | None
) -> tuple[Any, str | None]:
    """Make a captioner of a user's pictures, or of digits."""
    others = {name: value for name, value in choices.items() if name not in ("tokenizer", "pixels")}
    album = identity = None
    if data is None:
        for name in ("tokenizer", "pixels"):
            if name in choices:
                option, fix = f"--{name}", "scenes of digits have words and a size of their own"
                raise ArgumentError(must("train caption", option, "be left out without DATA", choices[name], fix))
    else:
        side, name = choices.get("pixels", PIXELS), choices.get("tokenizer", "words")
        if side < SHRINK or side % SHRINK:
            raise ArgumentError(must("train caption", "--pixels", f"be a multiple of {SHRINK}", side))
        prepared = prepare_pictures(data, *_maker("caption", name, recipe.vocabulary), side, side, begun=begun)
        album, identity = caption.PictureAlbum(recipe, prepared, seed), prepared.identity
    if first := others.get("start"):
        others["start"], _ = load("train caption", first, Captioner)
    torch.manual_seed(seed)
    return caption.CaptionTask(recipe, album, **others, seed=seed), identity


def _maker(kind: str, name: str, vocabulary: int) -> tuple[Makes, str]:
    """Give what makes the tokenizer, a kind by its name or one that is in a folder, and a name of all it depends on."""
    # A preset's size was chosen for nobody's texts: there may be fewer tokens in them.
    fewer = any(vocabulary == recipe.vocabulary for recipe in PRESETS[kind].values())

    def bpe(*special: str) -> Makes:
        return lambda texts: train_byte_bpe(texts, vocabulary, special=special, fewer=fewer)

    def letters(*special: str) -> Makes:
        return lambda texts: characters(texts, special=special, unknown="[UNK]")

    captions = (*pictures.SPECIAL, "[UNK]")
    known: dict[str, dict[str, Makes]] = {
        "bert": {
            "wordpiece": lambda texts: train_wordpiece(
                texts, vocabulary, lowercase=True, coverage=COVERAGE, fewer=fewer
            )
        },
        "gpt": {"bpe": bpe(END_OF_TEXT), "characters": letters("[UNK]")},
        "translate": {
            "bpe": bpe("[UNK]", START, END),
            "characters": letters("[UNK]", START, END),
            "unigram": lambda texts: train_unigram(texts, vocabulary, fewer=fewer),
        },
        "caption": {
            "words": lambda texts: words(texts, vocabulary, special=captions, unknown="[UNK]"),
            "bpe": bpe(*captions),
            "characters": letters(*captions),
        },
    }
    if name in known[kind]:
        return known[kind][name], f"{kind} {name} {vocabulary}"
    *others, last = known[kind]
    rule = f"be {', '.join(others)} or {last}" if others else f"be {last}"
    rule += ", or a folder with one"
    if any(name in makers for makers in known.values()):
        raise ArgumentError(must("train", "--tokenizer", rule, repr(name)))
    try:
        folder = find_folder(name, "train")
    except FileError as error:
        raise FileError(must("train", "--tokenizer", rule, repr(name), "no such folder, here or on the Hub")) from error
    made = load_tokenizer(folder)
    return lambda texts: made, f"{kind} {hashlib.blake2b(made.to_str().encode(), digest_size=12).hexdigest()}"


def _begun(kind: str, out: Path) -> dict[str, Any]:
    """Give what a run is about, and the options of its loop that need not be said again."""
    record = open_run(out, "train").record()
    before = record.get("about", {})
    rule = "say what it is about, as a run of this command does"
    if not isinstance(before, dict) or (lost := {"data", "recipe", "choices"} - before.keys()):
        got = f"no {', '.join(sorted(lost))}" if isinstance(before, dict) else before
        raise ArgumentError(must("train", f"{out}/run.json", rule, got))
    try:
        before |= {"loop": {name: record["options"][name] for name in KEPT}}
        begun = record["kind"]
        # What another version wrote, or a hand.
        Recipe(**before["recipe"]), {**before["choices"]}
    except (KeyError, TypeError) as error:
        raise ArgumentError(must("train", f"{out}/run.json", rule, f"{type(error).__name__}: {error}")) from error
    if begun != kind:
        fix = f"qkv train {begun} --out {out} --resume"
        raise ArgumentError(must("train", "KIND", f"be {begun}, as the run in {out} is", kind, fix))
    return before


def _check_unchanged(name: str, value: object, was: object, schedule: str) -> None:
    """Raise ArgumentError if an option is another than the run's, and its steps would not be the same."""
    falls = schedule in ("cosine", "linear")
    if value == was or (name in MAY_CHANGE and not (falls and name == "steps")):
        return
    said = "default" if was is None else was
    option, rule = f"--{name.replace('_', '-')}", f"be the run's {said} when it is resumed"
    fix = f"its rate falls towards its last step, by --schedule {schedule}" if name == "steps" else "or left out"
    raise ArgumentError(must("train", option, rule, value, fix))


def _check_choice(kind: str, name: str, value: object) -> None:
    option = f"--{name.replace('_', '-')}"
    if name not in CHOICES[kind]:
        raise ArgumentError(must(f"train {kind}", option, "be left out", repr(value), "it says nothing of this kind"))
    known = CHOICES[kind][name]
    if known is not None and str(value) not in known:
        raise ArgumentError(must(f"train {kind}", option, f"be one of {', '.join(known)}", repr(value)))
