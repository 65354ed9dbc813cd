"""What the report's pages share: their frame, and texts in both languages."""

import base64
import hashlib
import html
from importlib import resources

from qkv.labs.lab import Both

GENERATOR = '<meta name="generator" content="qkv labs">'


def both(text: Both, tag: str = "span") -> str:
    """Say a text in both languages; the page shows one."""
    return "".join(
        f'<{tag} lang="{name}">{html.escape(said)}</{tag}>' for name, said in (("en", text.en), ("zh", text.zh))
    )


def page(title: Both, body: str, *, home: bool = False) -> str:
    """Frame a page: it may run its own script and nothing else, and asks the network for nothing."""
    style, script = (
        resources.files("qkv.labs.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Plots carry their style in attributes.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    )
    pages = (
        ("index.html", Both("Questions", "问题")),
        ("mistakes.html", Both("Mistakes", "勘误")),
        ("choose.html", Both("Follow-ups", "追问")),
    )
    links = " ".join(f'<a href="{place}">{both(name)}</a>' for place, name in pages)
    return f"""<!doctype html>
<html lang="en" data-lang="en">
<head>
<meta charset="utf-8">
{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title.en)} · {html.escape(title.zh)}</title>
<style>{style}</style>
</head>
<body{' class="home"' if home else ""}>
<header>
  <a class="mark" href="index.html">qkv</a>
  <nav>{links}</nav>
  <div class="switches">
    <button type="button" id="language" aria-label="language, 语言">中文</button>
    <button type="button" id="theme" aria-label="light or dark, 明暗">◐</button>
  </div>
</header>
<main>
<h1>{both(title)}</h1>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
