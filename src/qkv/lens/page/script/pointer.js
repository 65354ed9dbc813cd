// Mouse, touch and buttons.

const placeOf = (token) => {
  const i = Number(token.dataset.token);
  return at("keys-seen").contains(token) ? { query: -1, key: i } : { query: i, key: -1 };
};

const listen = () => {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move(event)) event.preventDefault();
    else if (Object.hasOwn(press, event.key) && !event.target.matches("select, input")) press[event.key]();
    else if ((event.key === "Enter" || event.key === " ") && event.target.matches(".token")) {
      pin(placeOf(event.target));
      event.preventDefault();
    }
  });
  grid.canvas.addEventListener("pointermove", (event) => {
    const under = headUnder(event), before = state.overHead;
    state.overHead = under ? under.layer * state.view.heads + under.head : -1;
    for (const i of [before, state.overHead]) if (i >= 0 && before !== state.overHead) drawThumb(i);
    if (before !== state.overHead) drawThumb(index());
  });
  grid.canvas.addEventListener("pointerleave", () => { state.overHead = -1; drawGrid(); });
  grid.canvas.addEventListener("click", (event) => {
    const under = headUnder(event);
    if (!under) return;
    if (state.tab === "lines" && (event.ctrlKey || event.metaKey || event.shiftKey)) lines.toggle(under.layer * state.view.heads + under.head);
    else choose(under.layer, under.head);
  });

  map.scroll.addEventListener("scroll", () => soon(drawMap));
  map.canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") soon(() => point(cellUnder(event))); });
  map.canvas.addEventListener("pointerleave", () => soon(() => point(null)));
  map.canvas.addEventListener("click", (event) => { const under = cellUnder(event); if (under) pin(under); });
  map.scroll.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, event);
  }, { passive: false });

  for (const list of [at("tokens"), at("keys-seen")]) {
    const tokenUnder = (event) => {
      const token = event.target.closest(".token");
      return token ? placeOf(token) : null;
    };
    list.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") point(tokenUnder(event)); });
    list.addEventListener("pointerleave", () => point(null));
    list.addEventListener("click", (event) => { const under = tokenUnder(event); if (under) pin(under); });
    list.addEventListener("focusin", (event) => {
      const under = tokenUnder(event);
      if (under && (under.query !== state.pinned.query || under.key !== state.pinned.key)) pin(under);
    });
  }
  const partUnder = (event) => {
    const box = at("image").getBoundingClientRect(), { rows, columns } = state.view.image;
    const part = (from, size, count) => Math.max(0, Math.min(count - 1, Math.floor((from / size) * count)));
    const row = part(event.clientY - box.top, box.height, rows), column = part(event.clientX - box.left, box.width, columns);
    return { query: state.pinned.query, key: keyOf(row * columns + column) };
  };
  at("image").addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") soon(() => point(partUnder(event))); });
  at("image").addEventListener("pointerleave", () => soon(() => point(null)));
  at("image").addEventListener("click", (event) => {
    const { query, key } = partUnder(event);
    pin(state.view.keys === null ? { query: key, key: -1 } : { query, key });
  });

  at("layer-back").onclick = () => choose(state.layer - 1, state.head);
  at("layer-on").onclick = () => choose(state.layer + 1, state.head);
  at("head-back").onclick = () => choose(state.layer, state.head - 1);
  at("head-on").onclick = () => choose(state.layer, state.head + 1);
  at("in").onclick = () => zoom(1.5);
  at("out").onclick = () => zoom(1 / 1.5);
  at("fit").onclick = () => zoom(0);
  at("views").onchange = (event) => show(page.views[Number(event.target.value)]);
  at("merge").onclick = merge;
  at("export-svg").onclick = () => save("svg");
  at("export-png").onclick = () => save("png");
  at("language").onclick = () => { state.language = state.language === "en" ? "zh" : "en"; redraw(); };
  at("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; root.dataset.kept = ""; redraw(); };
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  prefersDark.addEventListener("change", () => {
    if (!("kept" in root.dataset)) { root.dataset.theme = prefersDark.matches ? "dark" : "light"; redraw(); }
  });
  // A frame that begins hidden, as a notebook's may, is laid out without room; that it grows is not always an event.
  let resized = 0, room = "";
  const grown = () => {
    if (room === (room = `${innerWidth} ${innerHeight}`)) return;
    cancelAnimationFrame(resized);
    resized = requestAnimationFrame(() => { layout(); drawView(); });
  };
  window.addEventListener("resize", grown);
  new ResizeObserver(grown).observe(root);
};
