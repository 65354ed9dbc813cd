// Over the picture: one head, or one word, large, and beside it every head of the chosen token, or every word.

const over = tab({
  name: "over", beside: false, heads: true, all: true, small: -1,
  words: {
    en: {
      tab: "Over the picture", heads: "All heads: layers down, heads across", words: "Every word",
      own: "Choose a token, or a part of the picture: what it looks at is bright. Choose a small picture to open its head. r3c6 is row 3, column 6, from 0.",
      crossed: "Choose a small picture to see where its word looks; point at a part for its weight. r3c6 is row 3, column 6, from 0.",
      says: () => "The picture under the weights: the brighter a part, the more it is looked at. Arrow keys choose what looks.",
    },
    zh: {
      tab: "叠加在图像上", heads: "全部注意力头：纵向为层，横向为头", words: "每个词",
      own: "选择一个词元或图像的一块，它所关注之处便亮起。点小图打开对应的头。r3c6 指第 3 行第 6 列，从 0 起。",
      crossed: "点小图看那个词看向哪里；指向图像的一块看它的权重。r3c6 指第 3 行第 6 列，从 0 起。",
      says: () => "权重叠加在图像上：越亮之处越受关注。方向键选择由谁来看。",
    },
  },
  there: (view) => view.image !== null,
  // Of one head there is one picture for each word.
  ofHeads: () => state.view.layers * state.view.heads > 1,
  isOwn: () => state.view.keys === null,

  place(width) {
    const unit = rem(), { image, layers, heads, labels } = state.view, tall = image.height / image.width, wide = width > 46 * unit;
    const across = Math.min(wide ? 0.4 * width : width - 2, 30 * unit, (30 * unit) / tall);
    const large = [1, 1, across, across * tall];
    const [x, y] = wide ? [across + 1.8 * unit, 0] : [0.4 * unit, across * tall + unit];
    const room = width - x - 0.4 * unit, top = y + 1.7 * unit, found = { large, x, y, top, boxes: [] };
    if (over.ofHeads()) {
      const left = x + (String(layers - 1).length * 0.5 + 0.75) * unit, start = top + 1.3 * unit;
      const cell = Math.min((room - (left - x)) / heads, 10 * unit), gap = cell > 2.6 * unit ? 0.3 * unit : 2;
      for (let i = 0; i < layers * heads; i++)
        found.boxes.push([left + (i % heads) * cell, start + Math.floor(i / heads) * (cell - gap) * tall + Math.floor(i / heads) * gap, cell - gap, (cell - gap) * tall]);
      Object.assign(found, { left, start, cell });
    } else {
      const columns = Math.max(1, Math.floor(room / (7.5 * unit))), cell = Math.min(room / columns, 12 * unit), size = cell - 0.6 * unit;
      labels.forEach((_, i) => found.boxes.push([x + (i % columns) * cell, top + Math.floor(i / columns) * (size * tall + 2.1 * unit), size, size * tall]));
    }
    return found;
  },
  height(width) {
    const { large, boxes } = over.place(width), bottom = ([, y, , high]) => y + high;
    return Math.max(bottom(large), ...boxes.map((box) => bottom(box) + (over.ofHeads() ? 0 : 1.6 * rem()))) + 0.5 * rem();
  },
  paint(context, { width, top, bottom }) {
    const unit = rem(), { large, x, y, boxes, left, start, cell } = over.place(width), { heads, labels, ready } = state.view;
    const shown = state.hover ?? state.pinned;
    paintImage(context, large, open(), shown, 2);
    const write = (label, size, at, baseline, align, shade, weight_ = 400) => {
      context.font = font(size, weight_);
      Object.assign(context, { fillStyle: shade, textAlign: align, textBaseline: "middle" });
      context.fillText(label, at, baseline);
    };
    write(over.ofHeads() ? over.text.heads : over.text.words, 0.87 * unit, x, y + 0.7 * unit, "left", colour.ink, 600);
    boxes.forEach(([left_, top_, wide, high], i) => {
      if (top_ > bottom || top_ + high + 2 * unit < top) return;
      const head = over.ofHeads() ? ready?.[i] : open(), chosen = over.ofHeads() ? i === index() : i === state.pinned.query;
      if (head) paintImage(context, [left_, top_, wide, high], head, over.ofHeads() ? { query: shown.query, key: shown.query < 0 ? shown.key : -1 } : { query: i, key: -1 }, 0, true);
      context.strokeStyle = chosen ? colour.pick : i === over.small ? colour.ink : colour.line;
      context.lineWidth = chosen ? 2 : 1;
      context.strokeRect(left_, top_, wide, high);
      if (!over.ofHeads()) {
        context.font = font(0.8 * unit, chosen ? 600 : 400);
        write(isolated(shorten(context, labels[i], wide)), 0.8 * unit, left_, top_ + high + 0.8 * unit, "left", chosen ? colour.pick : colour.ink, chosen ? 600 : 400);
      } else {
        if (i % heads === 0) write(String(i / heads), 0.75 * unit, left - 0.45 * unit, top_ + high / 2, "right", i / heads === state.layer ? colour.pick : colour.quiet);
        if (i < heads && i % Math.ceil((1.5 * unit) / cell) === 0) write(String(i), 0.75 * unit, left_ + wide / 2, start - 0.7 * unit, "center", i === state.head ? colour.pick : colour.quiet);
      }
    });
  },

  under({ x, y }) {
    const { large, boxes } = over.place(over.stage.scroll.clientWidth), { image } = state.view;
    const within = ([left, top, wide, high]) => x >= left && x < left + wide && y >= top && y < top + high;
    if (within(large)) {
      const row = Math.floor(((y - large[1]) / large[3]) * image.rows), column = Math.floor(((x - large[0]) / large[2]) * image.columns);
      return { key: keyOf(row * image.columns + column) };
    }
    return { small: boxes.findIndex(within) };
  },
  aim(spot) {
    const { key, small = -1 } = spot ? over.under(spot) : {}, before = over.small;
    over.small = small;
    point(key === undefined ? null : { query: state.pinned.query, key });
    if (before !== small) over.draw();
  },
  pick(spot) {
    const { key, small = -1 } = over.under(spot);
    if (key !== undefined) pin(over.isOwn() ? { query: key, key: -1 } : { query: state.pinned.query, key });
    else if (small >= 0 && over.ofHeads()) choose(Math.floor(small / state.view.heads), small % state.view.heads);
    else if (small >= 0) pin({ query: small, key: -1 });
  },
  press(key) {
    const { image, labels } = state.view, down = over.isOwn() ? image.columns : 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down }[key];
    if (!step) return false;
    pin({ query: Math.max(0, Math.min(labels.length - 1, state.pinned.query + step)), key: -1 });
    return true;
  },

  tell() {
    const head = open(), shown = state.hover ?? state.pinned, { labels, targets } = state.view;
    if (!head) return "";
    if (shown.query >= 0 && shown.key >= 0) return text().cell(labels[shown.query], targets[shown.key], percent(weight(head, shown.query, shown.key)));
    const best = strongest(vector(head, shown), 5).map(([value, i]) => `${(shown.query >= 0 ? targets : labels)[i]} ${percent(value)}`).join(", ");
    return shown.query >= 0 ? text().says(labels[shown.query], best) : text().saysColumn(targets[shown.key], best);
  },
  draw() {
    const { labels, image } = state.view, chips = over.isOwn() ? labels.slice(0, image.before) : over.ofHeads() ? labels : [];
    at("over-tokens").hidden = !chips.length;
    at("over-tokens").replaceChildren(...chips.map((label, query) => {
      const chip = make("button", { type: "button", className: "chip", textContent: label, onclick: () => pin({ query, key: -1 }) });
      chip.setAttribute("aria-pressed", query === state.pinned.query);
      return chip;
    }));
    over.stage.draw();
    at("over-reading").textContent = over.tell();
    at("over-note").textContent = over.isOwn() ? over.text.own : over.text.crossed;
  },
  pictures() {
    const { image } = state.view, wide = Math.max(360, image.width), high = (wide * image.height) / image.width;
    return [over.stage.picture(), { name: "image", width: wide, height: high, paint: (context) => paintImage(context, [0, 0, wide, high], open(), state.pinned, 3) }];
  },
});
over.stage = stage(over);
over.section.append(
  make("div", { className: "chips", id: "over-tokens" }), over.stage.scroll,
  make("p", { className: "reading wrap", id: "over-reading" }), make("p", { className: "quiet hint", id: "over-note" }));
