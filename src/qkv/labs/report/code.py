"""Python source as HTML, its comments, texts and keywords marked."""

import html
import io
import keyword
import token
import tokenize


def code(source: str) -> str:
    """Mark up Python source."""
    lines = source.splitlines(keepends=True)
    done, row, column = [], 1, 0

    def up_to(stop: tuple[int, int]) -> str:
        nonlocal row, column
        parts = []
        while (row, column) < stop:
            end = stop[1] if row == stop[0] else len(lines[row - 1])
            parts.append(lines[row - 1][column:end])
            row, column = (row, end) if row == stop[0] else (row + 1, 0)
        return html.escape("".join(parts))

    for found in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = _kind(found)
        if kind is None:
            continue
        done += [up_to(found.start), f'<span class="{kind}">', up_to(found.end), "</span>"]
    return "".join([*done, up_to((len(lines), len(lines[-1])))])


def _kind(found: tokenize.TokenInfo) -> str | None:
    if found.type == token.COMMENT:
        return "comment"
    if found.type == token.STRING or token.tok_name[found.type].startswith("FSTRING"):
        return "text"
    if found.type == token.NAME and keyword.iskeyword(found.string):
        return "keyword"
    return None
