"""A page that displays itself in a notebook: Jupyter, VS Code, marimo, Colab.

With anywidget installed it is a widget whose `layer` and `head` can be read and set from Python. Without, it is an
`<iframe srcdoc>`. Either way the page stands in a sandbox of its own, so that several in one notebook do not meet, and
nothing is asked of any network.
"""

import html
import importlib.util
from collections.abc import Iterable
from functools import cache
from typing import Any, Protocol, cast, runtime_checkable

from qkv.errors import ArgumentError, KindError, UnsupportedError, must
from qkv.lens.page import View
from qkv.lens.page.build import PARTS, bundle, fill, pack_view, part

HEIGHT = 720
"""Pixels that a page is high, unless told otherwise."""

SANDBOX = "allow-scripts allow-downloads"
"""What a page may do: run its script and save pictures; it may not touch the notebook around it."""

WIDGET = """
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", model.get("_sandbox"));
  frame.title = "qkv";
  frame.style.cssText = `width:100%;height:${Number(model.get("_height"))}px;border:0`;
  const tell = (message) => frame.contentWindow?.postMessage({ qkv: message }, "*");
  const heard = ({ source, data }) => {
    if (source !== frame.contentWindow || !data?.qkv?.moved) return;
    const { layer, head, query, key } = data.qkv.moved;
    for (const [name, value] of Object.entries({ layer, head, query, key }))
      if (Number.isInteger(value)) model.set(name, value);
    model.save_changes();
  };
  const turned = () => tell({ layer: model.get("layer"), head: model.get("head") });
  window.addEventListener("message", heard);
  model.on("change:layer change:head", turned);
  frame.srcdoc = model.get("_page");
  el.append(frame);
  return () => {
    window.removeEventListener("message", heard);
    model.off("change:layer change:head", turned);
  };
}
export default { render };
"""
"""The widget's script: it puts the page into a frame and carries numbers to and fro."""


@runtime_checkable
class Viewable(Protocol):
    """What can be seen: a reading, what was watched."""

    def views(self) -> Iterable[View]:
        """View it for a page."""
        ...


class Shown:
    """Something with `views()` that displays itself where it is the last line of a notebook's cell."""

    def _repr_mimebundle_(self, **_: object) -> Any:
        shown = show(cast(Viewable, self))
        if isinstance(shown, Framed):
            return {"text/plain": repr(self), "text/html": shown._repr_html_()}
        return shown._repr_mimebundle_()


class Framed:
    """A page as HTML that displays itself."""

    def __init__(self, page: str, height: int) -> None:
        self.page = page
        self.height = height

    def _repr_html_(self) -> str:
        page = html.escape(self.page, quote=True)
        style = f"width:100%;height:{self.height}px;border:0"
        return f'<iframe title="qkv" sandbox="{SANDBOX}" style="{style}" srcdoc="{page}"></iframe>'

    def _mime_(self) -> tuple[str, str]:
        # What marimo asks for.
        return "text/html", self._repr_html_()


def show(
    what: Viewable | View | Iterable[View], *, height: int = HEIGHT, widget: bool | None = None, budget: int = 2_800_000
) -> Any:
    """Show a reading, what was watched, or views, in a notebook's cell.

        qkv.show(read(model, tokenizer, "The cat sat."))

    The object returned displays itself. It is a widget, whose `layer`, `head`, `query` and `key` follow the page and
    `layer` and `head` lead it, if anywidget is installed (`widget=None`), or must be (True); or an iframe (False).

    Raises: KindError for what has no views; ArgumentError for a height below 100 pixels; UnsupportedError if a widget
    is asked for and anywidget is missing.
    """
    views = _views(what)
    if isinstance(height, bool) or not isinstance(height, int) or height < 100:
        raise ArgumentError(must("show", "height", "be an integer >= 100", repr(height), "pixels"))
    installed = importlib.util.find_spec("anywidget") is not None
    if widget and not installed:
        fix = "pip install 'qkv[notebook]', or widget=False"
        raise UnsupportedError(must("show", "anywidget", "be installed", "no anywidget", fix))
    data = {"title": "", "subtitle": "", "views": [pack_view(view, budget) for view in views]}
    page, _ = fill(part("page.html"), part("page.css"), bundle([*PARTS[:-1], "embedded"]), data, "qkv")
    if widget is False or not installed:
        return Framed(page, height)
    layer, head = views[0].start
    return _widget()(_page=page, _height=height, layer=layer, head=head)


def _views(what: object) -> list[View]:
    found = what.views() if isinstance(what, Viewable) else [what] if isinstance(what, View) else what
    views = list(found) if isinstance(found, Iterable) and not isinstance(found, str | bytes) else []
    if not views or not all(isinstance(view, View) for view in views):
        raise KindError(must("show", "what", "be a reading, what was watched, or views", type(what).__name__))
    return views


@cache
def _widget() -> Any:
    import anywidget
    import traitlets

    class Page(anywidget.AnyWidget):
        _esm = WIDGET
        _page = traitlets.Unicode().tag(sync=True)
        _sandbox = traitlets.Unicode(SANDBOX).tag(sync=True)
        _height = traitlets.Int(HEIGHT).tag(sync=True)
        layer = traitlets.Int(0).tag(sync=True)
        head = traitlets.Int(0).tag(sync=True)
        query = traitlets.Int(-1).tag(sync=True)
        key = traitlets.Int(-1).tag(sync=True)

    return Page
