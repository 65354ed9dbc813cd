// What changes what: a cell, a head, a sentence, the language.

const announce = (headToo) => {
  const head = open();
  if (!head) return;
  const { query, key } = state.pinned, { labels, targets } = state.view, seen = query >= 0 ? targets : labels;
  const list = strongest(vector(head, state.pinned), 5).map(([value, i]) => `${seen[i]} ${percent(value)}`).join(", ");
  const where = headToo ? `${text().layer(state.layer)}, ${text().head(state.head)}. ` : "";
  const cell = query >= 0 && key >= 0 ? `${text().cell(labels[query], targets[key], percent(weight(head, query, key)))}. ` : "";
  at("live").textContent = where + cell + (query >= 0 ? text().says(labels[query], list) : text().saysColumn(targets[key], list));
};

const point = (place) => {
  const before = state.hover;
  if (before?.query === place?.query && before?.key === place?.key) return;
  state.hover = place;
  drawView();
};

const pin = (place) => {
  state.hover = null;
  state.pinned = place;
  reveal(place);
  const crossed = state.view.keys !== null;
  const bring = (list, i) => {
    const token = list.children[i];
    if (!token) return;
    const end = token.offsetTop + token.offsetHeight - list.clientHeight;
    list.scrollTop = Math.min(token.offsetTop, Math.max(list.scrollTop, end));
  };
  bring(at("tokens"), crossed || place.query >= 0 ? place.query : place.key);
  if (crossed) bring(at("keys-seen"), place.key);
  drawView();
  announce(false);
  source.moved();
};

const choose = async (layer, head, speak = true) => {
  const view = state.view;
  state.layer = (layer + view.layers) % view.layers;
  state.head = (head + view.heads) % view.heads;
  state.hover = null;
  const chosen = index();
  at("layer").textContent = text().layer(state.layer);
  at("head").textContent = text().head(state.head);
  map.scroll.setAttribute("aria-label", text().map(state.layer, state.head, view.labels.length, view.targets.length));
  drawGrid();
  await headAt(view, chosen);
  if (view !== state.view || chosen !== index()) return;
  drawView();
  if (speak) announce(true);
  source.moved();
};

const named = (view) => {
  view.labels ??= view.tokens.map(visible);
  view.targets ??= view.keys?.map(visible) ?? view.labels;
  return view;
};

const show = async (whole, [layer, head] = whole.start) => {
  const view = (state.view = named(seenAs(named(whole))));
  Object.assign(state, { layer, head, hover: null, scale: 0, picked: [] });
  const word = view.labels.findIndex((label) => !/^[[<].*[\]>]$/.test(label));
  state.pinned = { query: view.query ?? Math.max(0, word), key: -1 };
  at("sentence").replaceChildren(make("bdi", { textContent: view.title, title: view.title.slice(0, 2000) }));
  at("views").value = String(page.views.indexOf(whole));
  const crossed = view.keys !== null;
  for (const [list, names] of [["tokens", view.labels], ["keys-seen", crossed ? view.targets : []]])
    at(list).replaceChildren(...names.map((label, i) => {
      const token = make("span", { className: "token" }, make("bdi", { textContent: label }));
      if (list === "tokens" && view.unknown.includes(i)) {
        token.classList.add("unknown");
        token.title = text().unknown(1);
      }
      token.setAttribute("role", "option");
      token.dataset.token = i;
      return token;
    }));
  at("keys-seen").hidden = !crossed || view.image !== null;
  at("image").hidden = view.image === null;
  layTabs();
  openTab(tabOf(view));
  explain();
  await choose(layer, head, false);
  root.dataset.first ??= Math.round(performance.now());
  const waiting = view.packed.map((_, i) => i);
  await Promise.all(Array.from({ length: 6 }, async () => {
    while (waiting.length && view === state.view) {
      const i = waiting.shift();
      await headAt(view, i);
      if (view === state.view && active().beside) drawThumb(i);
      else if (view === state.view && active().all) soon(drawView);
    }
  }));
  if (view === state.view) {
    drawGrid();
    root.dataset.drawn = page.views.indexOf(whole);
  }
};

const explain = () => {
  const error = 100 * state.view.error, unit = 10 ** (Math.floor(Math.log10(error)) - 1);
  const exact = text().exact(`±${Number((Math.ceil(error / unit) * unit).toPrecision(2))}`);
  const unknown = state.view.unknown.length;
  at("exact").textContent = unknown ? `${text().unknown(unknown)} ${exact}` : exact;
};

const say = () => {
  const t = text();
  root.lang = t.lang;
  at("title").textContent = page.title === null ? t.attention : visible(page.title);
  document.querySelectorAll("[data-text]").forEach((element) => (element.textContent = t[element.dataset.text]));
  at("heads-name").replaceChildren(t.heads, make("span", { className: "quiet note", textContent: t.headsNote }));
  Object.assign(at("language"), { textContent: t.other, lang: t.otherLang });
  const dark = root.dataset.theme === "dark";
  at("theme").textContent = dark ? t.light : t.dark;
  const name = (id, label) => { at(id).setAttribute("aria-label", label); at(id).title = label; };
  name("theme", dark ? t.toLight : t.toDark);
  for (const part of ["layer", "head"]) { name(`${part}-back`, t.back[part]); name(`${part}-on`, t.on[part]); }
  at("keys-seen").setAttribute("aria-label", t.keysSeen);
  at("image").setAttribute("aria-label", t.image);
  at("merge").title = t.mergeNote;
  at("tabs").setAttribute("aria-label", t.views);
  name("in", t.zoomIn); name("out", t.zoomOut); name("fit", t.zoomFit);
  at("keys").replaceChildren(...t.keys.flatMap((part) =>
    typeof part === "string" ? [part] : part.flatMap((key, i) => [i ? " " : "", make("kbd", { textContent: key })])));
};

const merge = () => {
  state.merged = !state.merged;
  at("merge").setAttribute("aria-pressed", state.merged);
  show(wholeOf(state.view), [state.layer, state.head]);
};

const redraw = () => {
  say();
  mix();
  explain();
  layTabs();
  choose(state.layer, state.head, false);
  drawView();
};
