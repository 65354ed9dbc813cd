// Lines between tokens: queries left, keys right, the stronger the heavier; several heads in colours of their own.

const MOST_HEADS = 6, MOST_LINES = 2000, LEVELS = 16;

const lines = tab({
  name: "lines", beside: true, heads: true, over: null, kept: null,
  words: {
    en: {
      tab: "Lines", hold: "Keep this head", drop: (name) => `Leave ${name} out`, all: "Every token",
      note: "Keep a head with + and open another, or Ctrl-click small maps, to see several at once. Point at a token, or tap it, to see its lines alone.",
      cut: (count) => `The ${count.toLocaleString("en")} heaviest lines are drawn; a token by itself shows all of its own.`,
      says: () => "Lines from queries, left, to keys, right. Up and down choose a token, left and right the side, Escape shows all.",
      head: (layer, head) => `layer ${layer}, head ${head}`,
    },
    zh: {
      tab: "连线", hold: "保留此头", drop: (name) => `移除${name}`, all: "全部词元",
      note: "用 + 保留一个头再打开另一个，或按住 Ctrl 点击缩略图，可同时看多个头。指向或轻触一个词元，只看它的连线。",
      cut: (count) => `只画出最重的 ${count.toLocaleString("zh")} 条线；单独看一个词元时画出它的全部连线。`,
      says: () => "从左侧查询到右侧键的连线。上下键选词元，左右键换边，Esc 显示全部。",
      head: (layer, head) => `第 ${layer} 层第 ${head} 头`,
    },
  },
  there: () => true,

  heads: () => (state.picked.includes(index()) ? state.picked : [...state.picked, index()].slice(-MOST_HEADS)),
  colourOf(i) {
    const place = state.tab === "lines" ? lines.heads().indexOf(i) : -1;
    return place < 0 ? null : colour.several[place];
  },
  toggle(i) {
    if (state.picked.includes(i)) state.picked = state.picked.filter((one) => one !== i);
    else if (state.picked.length < MOST_HEADS - 1) state.picked = [...state.picked, i];
    Promise.all(lines.heads().map((one) => headAt(state.view, one))).then(() => { drawGrid(); drawView(); });
  },

  // The heaviest links of a head, as many as can be drawn at once, by their level: found once.
  linksOf(head) {
    if (head.links) return head.links;
    const counts = new Uint32Array(256);
    for (const number of head.numbers) counts[head.shades[number]]++;
    let least = 255, left = MOST_LINES - counts[255];
    while (least > 8 && left >= counts[least - 1]) left -= counts[--least];
    const levels = Array.from({ length: LEVELS + 1 }, () => []);
    for (let i = 0; i < head.numbers.length; i++)
      if (head.shades[head.numbers[i]] >= least) levels[lines.levelOf(head, head.numbers[i] * head.step)].push(i);
    return (head.links = { levels, cut: least > 9 });
  },
  levelOf: (head, value) => Math.ceil(LEVELS * Math.min(1, value / head.top)),
  linksOfOne(head, { query, key }) {
    const levels = Array.from({ length: LEVELS + 1 }, () => []);
    vector(head, { query, key }).forEach((value, i) => {
      const level = lines.levelOf(head, value);
      if (level) levels[level].push(query >= 0 ? i * head.queries + query : key * head.queries + i);
    });
    return { levels, cut: false };
  },

  row: () => 1.5 * rem(),
  place(width) {
    const unit = rem(), { labels, targets } = state.view, most = Math.min(11 * unit, width * 0.33);
    ruler.font = font(0.87 * unit, 600);
    const widest = (names) => Math.min(most, Math.max(...names.slice(0, 2000).map((name) => ruler.measureText(shorten(ruler, name, most)).width)));
    const boxes = lines.heads().length * 0.45 * unit + 0.7 * unit;
    return { left: widest(labels) + boxes + 0.8 * unit, right: width - widest(targets) - boxes - 0.8 * unit - 3 * unit, boxes };
  },
  height: () => lines.row() * Math.max(state.view.labels.length, state.view.targets.length) + rem(),
  alone: () => lines.over ?? lines.kept,

  paint(context, { width, top, bottom }) {
    const unit = rem(), row = lines.row(), { left, right, boxes } = lines.place(width), alone = lines.alone();
    const { labels, targets } = state.view, middle = (i) => (i + 0.5) * row + unit / 2;
    const shown = lines.heads().map((i) => state.view.ready?.[i]), crowded = !alone && labels.length * targets.length > 4000;
    shown.forEach((head, place) => {
      if (!head) return;
      const { levels } = alone ? lines.linksOfOne(head, alone) : lines.linksOf(head);
      context.strokeStyle = colour.several[place];
      levels.forEach((links, level) => {
        if (!links.length || !level) return;
        context.globalAlpha = 0.08 + (0.92 * level) / LEVELS;
        // Hairlines are drawn several times faster than thick ones.
        context.lineWidth = crowded ? 1 : 0.5 + (2 * level) / LEVELS;
        context.beginPath();
        for (const link of links) {
          const from = middle(link % head.queries), to = middle(Math.floor(link / head.queries));
          if (Math.max(from, to) < top || Math.min(from, to) > bottom) continue;
          context.moveTo(left, from);
          context.lineTo(right, to);
        }
        context.stroke();
      });
    });
    context.globalAlpha = 1;
    context.textBaseline = "middle";
    const column = (names, isLeft) => {
      const own = alone && (isLeft ? alone.query : alone.key) >= 0, chosen = alone ? (isLeft ? alone.query : alone.key) : -1;
      const first = Math.max(0, Math.floor((top - unit) / row)), last = Math.min(names.length, Math.ceil(bottom / row));
      for (let i = first; i < last; i++) {
        const y = middle(i), start = isLeft ? left - boxes : right;
        if (alone && !own)
          shown.forEach((head, place) => {
            if (!head) return;
            const value = isLeft ? weight(head, i, alone.key) : weight(head, alone.query, i);
            context.globalAlpha = Math.min(1, value / head.top);
            context.fillStyle = colour.several[place];
            context.fillRect(start + (0.35 + 0.45 * place) * unit, y - 0.42 * row, 0.4 * unit, 0.84 * row);
          });
        context.globalAlpha = own && i !== chosen ? 0.45 : 1;
        context.font = font(0.87 * unit, i === chosen ? 600 : 400);
        context.fillStyle = i === chosen ? colour.pick : colour.ink;
        context.textAlign = isLeft ? "right" : "left";
        context.fillText(isolated(shorten(context, names[i], isLeft ? left - boxes - 0.6 * unit : width - right - boxes - 3.4 * unit)), isLeft ? left - boxes : right + boxes, y);
        context.globalAlpha = 1;
        if (alone && !own && !isLeft && shown.length === 1 && shown[0]) {
          context.font = font(0.75 * unit);
          context.fillStyle = colour.quiet;
          context.textAlign = "right";
          context.fillText(percent(weight(shown[0], alone.query, i)), width - 0.3 * unit, y);
        }
      }
    };
    column(labels, true);
    column(targets, false);
  },

  tokenAt({ x, y }) {
    const { left, right } = lines.place(lines.stage.scroll.clientWidth), i = Math.floor((y - rem() / 2) / lines.row());
    if (x <= left && i >= 0 && i < state.view.labels.length) return { query: i, key: -1 };
    if (x >= right && i >= 0 && i < state.view.targets.length) return { query: -1, key: i };
    return null;
  },
  aim(spot) {
    const over = spot && lines.tokenAt(spot);
    if (over?.query === lines.over?.query && over?.key === lines.over?.key) return;
    lines.over = over;
    lines.draw();
  },
  keep(place) {
    lines.over = null;
    lines.kept = place;
    if (place) {
      state.pinned = place;
      const y = Math.max(place.query, place.key) * lines.row();
      lines.stage.reveal(y, y + 2 * lines.row());
    }
    lines.draw();
    at("live").textContent = place ? at("lines-reading").textContent : lines.text.all;
  },
  pick(spot) {
    const token = lines.tokenAt(spot), same = token?.query === lines.kept?.query && token?.key === lines.kept?.key;
    lines.keep(same ? null : token);
  },
  press(key) {
    const { labels, targets } = state.view, at = lines.kept ?? { query: -1, key: -1 }, right = at.key >= 0;
    const i = Math.max(at.query, at.key), within = (i, { length }) => Math.max(0, Math.min(length - 1, i));
    if (key === "Escape") lines.keep(null);
    else if (key === "ArrowUp" || key === "ArrowDown") {
      const next = within(i + (key === "ArrowUp" ? -1 : 1), right ? targets : labels);
      lines.keep(right ? { query: -1, key: next } : { query: next, key: -1 });
    } else if (key === "ArrowRight") lines.keep({ query: -1, key: within(i, targets) });
    else if (key === "ArrowLeft") lines.keep({ query: within(i, labels), key: -1 });
    else return false;
    return true;
  },

  nameOf: (i) => lines.text.head(Math.floor(i / state.view.heads), i % state.view.heads),
  tell() {
    const alone = lines.alone(), { labels, targets } = state.view;
    if (!alone) {
      const cut = lines.heads().some((i) => state.view.ready?.[i] && lines.linksOf(state.view.ready[i]).cut);
      return cut ? lines.text.cut(MOST_LINES) : lines.text.note;
    }
    const told = lines.heads().map((i) => {
      const head = state.view.ready?.[i];
      if (!head) return "";
      const best = strongest(vector(head, alone), 5), names = alone.query >= 0 ? targets : labels;
      const list = best.map(([value, at]) => `${names[at]} ${percent(value)}`).join(", ");
      const said = alone.query >= 0 ? text().says(labels[alone.query], list) : text().saysColumn(targets[alone.key], list);
      return lines.heads().length > 1 ? `${lines.nameOf(i)}: ${said}` : said;
    });
    return told.join(" · ");
  },
  draw() {
    const chips = lines.heads().map((i, place) => {
      const open = i === index() && !state.picked.includes(i);
      const chip = make("button", { type: "button", className: "chip", textContent: open ? `${lines.nameOf(i)} +` : `${lines.nameOf(i)} ×`, onclick: () => lines.toggle(i) });
      chip.style.borderColor = colour.several[place];
      chip.title = open ? lines.text.hold : lines.text.drop(lines.nameOf(i));
      chip.setAttribute("aria-label", `${chip.title}: ${lines.nameOf(i)}`);
      return chip;
    });
    const spoken = chips.map((chip) => chip.ariaLabel).join();
    if (lines.spoken !== spoken + root.dataset.theme) at("lines-heads").replaceChildren(...chips);
    lines.spoken = spoken + root.dataset.theme;
    lines.stage.draw();
    at("lines-reading").textContent = lines.tell();
  },
  enter() { lines.over = lines.kept = null; },
  pictures: () => [lines.stage.picture()],
});
lines.stage = stage(lines);
lines.section.append(
  make("div", { className: "bar" }, make("div", { className: "chips", id: "lines-heads" })), lines.stage.scroll,
  make("p", { className: "reading wrap quiet", id: "lines-reading" }));
