// One row (or column) in words and bars.

const strongest = (values, most) =>
  values.map((value, i) => [value, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, most);

// The tokens of a list that can be seen: the first, and the one after the last.
const inSight = (list) => {
  const from = list.scrollTop, to = from + list.clientHeight;
  const after = (edge) => {
    let low = 0, high = list.children.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list.children[middle].offsetTop < edge) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  return [after(from - 40), after(to)];
};

const drawRow = () => {
  const head = open();
  if (!head) return;
  const shown = state.hover ?? state.pinned, values = vector(head, shown), { labels, targets } = state.view;
  const isRow = shown.query >= 0, seen = isRow ? targets : labels;
  const bdi = (label) => make("bdi", { textContent: label, title: label });
  const anchor = isRow ? labels[shown.query] : targets[shown.key];
  at("row-name").replaceChildren(
    ...(isRow ? text().row : text().column)("\0").map((part) => (part === "\0" ? bdi(anchor) : make("span", { textContent: part }))));

  const shade = (value) => Math.round(255 * Math.sqrt(Math.min(1, value / head.top)));
  // While the pointer moves, only tokens in sight are coloured, and what they are called waits.
  const colourTokens = (list, names, chosen, shaded, pinned) => {
    const [first, last] = state.hover ? inSight(list) : [0, names.length];
    for (let i = first; i < last; i++) {
      const element = list.children[i], level = shaded ? shade(values[i]) : -1;
      if (element.level !== level || element.mixed !== colour) {
        Object.assign(element, { level, mixed: colour });
        element.style.cssText = shaded ? `background:${colour.css[level]};color:${colour.on(level)}` : "";
      }
      if ((element.ariaSelected === "true") !== (i === chosen)) element.ariaSelected = String(i === chosen);
      if (state.hover) continue;
      element.ariaLabel = shaded ? `${names[i]} ${percent(values[i])}` : names[i];
      element.tabIndex = i === Math.max(0, pinned) ? 0 : -1;
    }
  };
  const crossed = state.view.keys !== null, own = ({ query, key }) => (crossed || query >= 0 ? query : key);
  colourTokens(at("tokens"), labels, own(shown), !crossed || !isRow, own(state.pinned));
  if (crossed) colourTokens(at("keys-seen"), targets, shown.key, isRow, state.pinned.key);
  drawImage();

  // What has no weight, as a masked key, is not among the strongest.
  const best = strongest(values, 10).filter(([value], rank) => value > 0 || rank === 0), most = best[0][0] || 1;
  at("bars").replaceChildren(...best.map(([value, i]) => {
    const bar = make("i");
    bar.style.width = `${(100 * value) / most}%`;
    bar.style.backgroundColor = colour.css[Math.max(60, shade(value))];
    const label = bdi(seen[i]);
    if (seen.indexOf(seen[i]) !== seen.lastIndexOf(seen[i])) label.dataset.position = i;
    const item = make("li", {}, label, make("span", {}, bar), make("b", { textContent: percent(value) }));
    item.dataset.token = i;
    return item;
  }));

  const reading = at("reading");
  if (shown.query >= 0 && shown.key >= 0)
    reading.replaceChildren(bdi(labels[shown.query]), " → ", bdi(targets[shown.key]), "  ", make("b", { textContent: percent(weight(head, shown.query, shown.key)) }));
  else reading.replaceChildren(make("span", { className: "quiet", textContent: text().hint }));

  resizeLegend(head);
};
