"""Every error that a user of `qkv see` and `qkv words` meets can be told in Chinese."""

import ast
import re
from pathlib import Path

import pytest

import qkv
from qkv.commands.chinese import FIXES, RULES, in_chinese, spoken
from qkv.errors import ArgumentError, must

SOURCE = Path(qkv.__file__).parent
MODULES = (
    "commands/see.py", "commands/serve.py", "commands/words.py", "lens/see.py", "lens/patches.py", "lens/language.py",
    "lens/words.py", "lens/serve/run.py", "files.py",
)  # fmt: skip


def texts_of(node, named):
    """What an expression may be: each {} stands for what is known later; a variable is all that it is ever set to."""
    if isinstance(node, ast.Constant):
        return {node.value}
    if isinstance(node, ast.JoinedStr):
        return {"".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)}
    return named.get(node.id, set()) if isinstance(node, ast.Name) else set()


def errors_of(module):
    """Give the rules and fixes that a module's functions write."""
    rules, fixes = set(), set()
    for function in ast.walk(ast.parse((SOURCE / module).read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        named = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                target, value = node.targets[0], node.value
                both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                for name, one in zip(target.elts, value.elts, strict=True) if both else [(target, value)]:
                    if isinstance(name, ast.Name):
                        named.setdefault(name.id, set()).update(texts_of(one, {}))
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "must":
                rules |= texts_of(node.args[2], named)
                fixes |= texts_of(node.args[4], named) if len(node.args) > 4 else set()
    return rules, fixes


@pytest.mark.parametrize("module", MODULES)
def test_every_rule_and_fix_is_translated(module):
    rules, fixes = errors_of(module)
    assert rules
    for rule in rules:
        told = in_chinese(must("see", "TEXT", rule.replace("{}", "7"), "x"))
        assert "必须" in told, rule
    for fix in fixes:
        fix = fix.replace("{}s", "heads").replace("{}", "7")
        told = in_chinese(must("see", "TEXT", "be new", "x", fix))
        assert told.endswith("）"), fix


def test_the_tables_keep_what_is_filled_in():
    for table in (RULES, FIXES):
        assert all(key.count("{}") == value.count("{}") for key, value in table.items())
        assert all(re.search("[\u4e00-\u9fff]", value) or "pip" in value or "qkv" in value for value in table.values())


def test_what_is_not_known_stays_english_and_whole():
    for message in ("window: width must be made of cheese; got 0", "no house form at all"):
        assert in_chinese(message) == message
    told = "see: TEXT must have at most 5 tokens; got 6 (an unheard-of fix)"
    assert in_chinese(told) == "see：TEXT 必须最多有 5 个词元；实际为：6 (an unheard-of fix)"
    told = "see: --word must stand in one of the texts; got 'a; got b (c)'"
    assert in_chinese(told) == "see：--word 必须出现在某个文本中；实际为：'a; got b (c)'"


def test_an_error_keeps_its_kind():
    with pytest.raises(ArgumentError, match=r"^see：TEXT 必须给出；实际为：没有$"), spoken("see", "zh"):
        raise ArgumentError(must("see", "TEXT", "be given", "none"))
    with pytest.raises(ArgumentError, match=r"^see: TEXT must be given; got none$"), spoken("see", None):
        raise ArgumentError(must("see", "TEXT", "be given", "none"))
