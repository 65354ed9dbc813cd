// Query and key of one pair, feature by feature: their products sum to the score.

const pair = tab({
  name: "pair", beside: true, heads: true, ofTokens: true, sorted: false, at: 0, place: { query: 0, key: 0 }, hover: null,
  words: {
    en: {
      tab: "Query and key", query: "Query", key: "Key", order: "In order", sort: "Largest first", sum: "sum",
      product: "product", score: "score",
      held: (heads) => `The page holds queries and keys of ${heads}.`, every: "every head", comma: ", ",
      missing: "Queries and keys of this head were left out, to keep the page small.",
      say: (feature, q, k, product, sum) => `Feature ${feature}: ${q} × ${k} = ${product}; the sum so far is ${sum}`,
      total: (query, key, score, weight) => `The score of ${query} and ${key} is ${score}, before any bias or mask; the weight is ${weight}.`,
      rounded: "Values are rounded to 11 binary digits.",
      says: () => "Products of a query’s and a key’s features. Left and right move from feature to feature.",
    },
    zh: {
      tab: "查询与键", query: "查询", key: "键", order: "按顺序", sort: "从大到小", sum: "累计和",
      product: "乘积", score: "分数",
      held: (heads) => `本页存有 ${heads} 的查询与键。`, every: "全部注意力头", comma: "、",
      missing: "为了控制文件大小，未保存此头的查询与键。",
      say: (feature, q, k, product, sum) => `特征 ${feature}：${q} × ${k} = ${product}；累计和 ${sum}`,
      total: (query, key, score, weight) => `${query} 与 ${key} 的分数为 ${score}（未加偏置与掩码）；权重为 ${weight}。`,
      rounded: "数值舍入为 11 位二进制有效数字。",
      says: () => "一个查询与一个键逐特征的乘积。左右键逐个特征移动。",
    },
  },
  there: (view) => (view.original ?? view).features !== null,

  view: () => state.view.original ?? state.view,
  // The token of a word's first part, where tokens are merged to words.
  first: (groups, i) => (groups ? groups[i][0] : i),
  enter() {
    const { query, key } = state.pinned, head = open(), view = state.view;
    const row = query >= 0 ? query : head ? strongest(vector(head, state.pinned), 1)[0][1] : 0;
    const column = key >= 0 ? key : head ? strongest(vector(head, { query: row, key: -1 }), 1)[0][1] : 0;
    pair.place = { query: pair.first(view.groups, row), key: pair.first(view.keyGroups, column) };
    pair.fill();
    const sizes = (pair.terms() ?? []).map(({ product }) => Math.abs(product));
    pair.at = Math.max(0, sizes.indexOf(Math.max(...sizes)));
  },
  fill() {
    const view = pair.view(), labels = view.labels, targets = view.targets;
    for (const [id, names] of [["pair-query", labels], ["pair-key", targets]])
      at(id).replaceChildren(...names.map((label, i) => make("option", { value: String(i), textContent: `${i} · ${label}` })));
  },

  terms() {
    const both = featuresAt(pair.view(), index());
    if (!both) return null;
    const query = both[0](pair.place.query), key = both[1](pair.place.key);
    const terms = Array.from(query, (value, i) => ({ feature: i, query: value, key: key[i], product: value * key[i] }));
    if (pair.sorted) terms.sort((a, b) => Math.abs(b.product) - Math.abs(a.product) || a.feature - b.feature);
    let sum = 0;
    for (const term of terms) term.sum = sum += term.product;
    return terms;
  },

  height: () => 21 * rem(),
  box(width) {
    const unit = rem(), left = 4.6 * unit, terms = pair.terms();
    return { left, each: terms ? (width - left - 0.8 * unit) / terms.length : 1, terms };
  },
  paint(context, { width, height }) {
    const unit = rem(), { left, each, terms } = pair.box(width);
    context.textBaseline = "middle";
    context.font = font(0.87 * unit);
    context.textAlign = "left";
    if (!terms) {
      context.fillStyle = colour.quiet;
      return context.fillText(shorten(context, pair.text.missing, width - unit), 0.5 * unit, height / 2);
    }
    const [negative, positive] = colour.sides, shown = pair.hover ?? pair.at, gap = each > 5 ? 1 : 0;
    const name = (label, y, weight) => {
      context.fillStyle = colour.quiet;
      context.font = font(weight * unit);
      context.textAlign = "right";
      context.fillText(shorten(context, label, left - 0.9 * unit), left - 0.5 * unit, y);
    };
    const strip = (label, of, y, high) => {
      const most = Math.max(1e-9, ...terms.map((term) => Math.abs(term[of])));
      terms.forEach((term, i) => {
        context.fillStyle = term[of] < 0 ? negative : positive;
        context.globalAlpha = Math.abs(term[of]) / most;
        context.fillRect(left + i * each, y, each - gap, high);
      });
      context.globalAlpha = 1;
      name(label, y + high / 2, 0.8);
    };
    const bars = (label, of, y, high) => {
      const most = Math.max(0, ...terms.map((term) => term[of])), least = Math.min(0, ...terms.map((term) => term[of]));
      const scale = high / (most - least || 1), zero = y + most * scale;
      terms.forEach((term, i) => {
        context.fillStyle = term[of] < 0 ? negative : positive;
        const size = Math.max(0.5, Math.abs(term[of]) * scale);
        context.fillRect(left + i * each, term[of] < 0 ? zero : zero - size, each - gap, size);
      });
      context.fillStyle = colour.line;
      context.fillRect(left, zero, each * terms.length, 1);
      name(label, y + high / 2, 0.8);
      if (most) name(signed(most), y + 0.3 * unit, 0.72);
      if (least) name(signed(least), y + high - 0.3 * unit, 0.72);
    };
    strip(pair.text.query, "query", unit, 2.2 * unit);
    strip(pair.text.key, "key", 3.6 * unit, 2.2 * unit);
    bars(pair.text.product, "product", 6.6 * unit, 5.8 * unit);
    bars(pair.text.sum, "sum", 13.4 * unit, 5.6 * unit);
    context.strokeStyle = colour.pick;
    context.lineWidth = 1.5;
    context.strokeRect(left + shown * each - 1, 0.7 * unit, Math.max(3, each - gap) + 2, 18.8 * unit);
    context.fillStyle = colour.ink;
    context.font = font(0.87 * unit, 600);
    context.textAlign = "right";
    context.fillText(`${pair.text.score} ${signed(terms.at(-1).sum)}`, width - 0.8 * unit, 20.2 * unit);
  },

  termAt({ x }) {
    const { left, each, terms } = pair.box(pair.stage.scroll.clientWidth), i = Math.floor((x - left) / each);
    return terms && i >= 0 && i < terms.length ? i : null;
  },
  aim(spot) { pair.hover = spot && pair.termAt(spot); pair.draw(); },
  pick(spot) { pair.at = pair.termAt(spot) ?? pair.at; pair.draw(); },
  press(key) {
    const terms = pair.terms(), steps = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!steps || !terms) return false;
    pair.at = Math.max(0, Math.min(terms.length - 1, pair.at + steps));
    pair.draw();
    at("live").textContent = pair.tell(terms);
    return true;
  },
  tell(terms) {
    const { feature, query, key, product, sum } = terms[Math.min(terms.length - 1, pair.hover ?? pair.at)];
    return pair.text.say(feature, signed(query), signed(key), signed(product), signed(sum));
  },

  draw() {
    const view = pair.view(), terms = pair.terms(), head = view.ready?.[index()], { query, key } = pair.place;
    at("pair-query").value = String(query);
    at("pair-key").value = String(key);
    at("pair-query-name").textContent = pair.text.query;
    at("pair-key-name").textContent = pair.text.key;
    at("pair-sort").textContent = pair.text.sort;
    at("pair-sort").setAttribute("aria-pressed", pair.sorted);
    const held = Object.keys(view.features.heads).map(Number);
    const names = held.slice(0, 12).map((i) => `L${Math.floor(i / view.heads)} H${i % view.heads}`).join(pair.text.comma) + (held.length > 12 ? " …" : "");
    at("pair-held").textContent = `${pair.text.held(held.length === view.layers * view.heads ? pair.text.every : names)} ${pair.text.rounded}`;
    pair.stage.draw();
    if (!terms) return at("pair-reading").replaceChildren(pair.text.missing);
    const value = head ? percent(weight(head, query, key)) : "…";
    at("pair-reading").replaceChildren(
      make("span", { textContent: pair.text.total(view.labels[query], view.targets[key], signed(terms.reduce((sum, { product }) => sum + product, 0)), value) }),
      make("br"), make("span", { textContent: pair.tell(terms) }));
    // With merged words, the weight of these two tokens is of a map that may not have been read yet.
    if (!head) headAt(view, index()).then(() => { if (active() === pair) pair.draw(); });
  },
  pictures: () => [pair.stage.picture()],
});

const signed = (value) => {
  const size = Math.abs(value), digits = size >= 100 ? 1 : size >= 1 ? 2 : 3;
  return `${value < 0 ? "−" : ""}${size.toFixed(digits)}`;
};

pair.stage = stage(pair);
pair.section.append(
  make("div", { className: "bar" },
    make("label", { className: "choose" }, make("span", { id: "pair-query-name" }), make("select", { id: "pair-query", onchange: (event) => { pair.place.query = Number(event.target.value); pair.draw(); } })),
    make("label", { className: "choose" }, make("span", { id: "pair-key-name" }), make("select", { id: "pair-key", onchange: (event) => { pair.place.key = Number(event.target.value); pair.draw(); } })),
    make("button", { type: "button", id: "pair-sort", onclick: () => { pair.sorted = !pair.sorted; pair.draw(); } })),
  pair.stage.scroll,
  make("p", { className: "reading wrap", id: "pair-reading" }),
  make("p", { className: "reading wrap quiet", id: "pair-held" }));
