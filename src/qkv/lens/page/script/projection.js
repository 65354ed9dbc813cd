// A word in context: its vectors in two dimensions, and the sentences whose vectors are nearest.

const projection = tab({
  name: "projection", beside: false, over: -1, kept: 0, layer: null,
  words: {
    en: {
      tab: "Words in context", layer: (n) => (n ? `after layer ${n - 1}` : "before any attention"),
      method: (word, share) => `“${word}” at its places, by the two principal components of its vectors: they keep ${share} of the variance. Points near each other here may be far apart in the other dimensions; the list counts all of them.`,
      nearest: "Nearest by cosine, in all dimensions", place: (n) => `Place ${n}`,
      says: () => "The word’s places as points in two dimensions. Arrow keys go from point to point.",
    },
    zh: {
      tab: "语境中的词", layer: (n) => (n ? `第 ${n - 1} 层之后` : "任何注意力之前"),
      method: (word, share) => `“${word}”在各处的向量，按两个主成分绘制，保留 ${share} 的方差。图上相近的点在其余维度上可能相距很远；列表按全部维度计算。`,
      nearest: "余弦最近的句子（全部维度）", place: (n) => `第 ${n} 处`,
      says: () => "该词的各处以二维点表示。方向键在点之间移动。",
    },
  },
  data: () => page.views.find((view) => view.projection)?.projection,
  there: () => projection.data() !== undefined,
  at: () => projection.layer ?? projection.data().shares.length - 1,
  label: (i) => projection.data().places[i].map((part) => (part.trim() ? visible(part) : part && " ")),

  height: (width) => Math.min(width * 0.75, 34 * rem()),
  points({ width, height }) {
    const points = projection.data().points[projection.at()], unit = rem();
    const spans = [0, 1].map((axis) => {
      const values = points.map((point) => point[axis]), least = Math.min(...values);
      return { least, range: Math.max(...values) - least };
    });
    // A dimension in which the points do not differ is rounding alone: they stand in the middle of it.
    const widest = Math.max(...spans.map(({ range }) => range));
    const into = (value, { least, range }, from, size) => from + (range > 1e-4 * widest ? (value - least) / range : 0.5) * size;
    return points.map(([x, y]) => [into(x, spans[0], 2 * unit, width - 4 * unit), into(-y, { least: -spans[1].least - spans[1].range, range: spans[1].range }, 2 * unit, height - 4 * unit)]);
  },
  paint(context, size) {
    const unit = rem(), points = projection.points(size), { nearest } = projection.data(), shown = projection.over >= 0 ? projection.over : projection.kept;
    const near = nearest[projection.at()][shown];
    context.strokeStyle = colour.line;
    context.lineWidth = 1.5;
    for (const other of near) {
      context.beginPath();
      context.moveTo(...points[shown]);
      context.lineTo(...points[other]);
      context.stroke();
    }
    const taken = [];
    const write = (i, picked) => {
      const [x, y] = points[i], [before, word, after] = projection.label(i);
      context.font = font(0.75 * unit, picked ? 600 : 400);
      const whole = `${before.slice(-18)}${word}${after.slice(0, 22)}`, most = Math.min(17 * unit, size.width * 0.45);
      const label = shorten(context, `${before.length > 18 ? "…" : ""}${whole}${after.length > 22 ? "…" : ""}`, most);
      const width = context.measureText(label).width, left = x + width + 1.2 * unit > size.width ? x - width - 0.6 * unit : x + 0.6 * unit;
      if (!picked && taken.some((box) => left < box.right && left + width > box.left && Math.abs(y - box.y) < 1.1 * unit)) return;
      taken.push({ left: left - unit, right: left + width, y });
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.fillStyle = picked ? colour.pick : near.includes(i) ? colour.ink : colour.quiet;
      context.fillText(isolated(label), left, y);
    };
    const order = [shown, ...near, ...points.keys()].filter((one, i, all) => all.indexOf(one) === i);
    for (const i of order) write(i, i === shown);
    for (const i of order.reverse()) {
      context.beginPath();
      context.arc(...points[i], (i === shown ? 0.42 : 0.3) * unit, 0, 2 * Math.PI);
      context.fillStyle = i === shown ? colour.pick : near.includes(i) ? colour.several[0] : colour.quiet;
      context.fill();
    }
  },

  pointAt({ x, y }) {
    const width = projection.stage.scroll.clientWidth, points = projection.points({ width, height: projection.height(width) });
    const far = points.map(([left, top]) => Math.hypot(left - x, top - y)), best = far.indexOf(Math.min(...far));
    return far[best] < 2 * rem() ? best : -1;
  },
  aim(spot) {
    const over = spot ? projection.pointAt(spot) : -1;
    if (over !== projection.over) { projection.over = over; projection.draw(); }
  },
  pick(spot) { const point = projection.pointAt(spot); if (point >= 0) projection.keep(point); },
  keep(point) {
    Object.assign(projection, { over: -1, kept: point });
    projection.draw();
    at("live").textContent = `${projection.label(point).join("")}. ${at("nearest").textContent}`;
  },
  press(key) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key], count = projection.data().places.length;
    if (!step) return false;
    projection.keep((projection.kept + step + count) % count);
    return true;
  },

  sentence(i) {
    const [before, word, after] = projection.label(i);
    return make("bdi", {}, before, make("mark", { textContent: word }), after);
  },
  draw() {
    const { word, shares, nearest, cosines } = projection.data(), layer = projection.at(), { text } = projection;
    const shown = projection.over >= 0 ? projection.over : projection.kept;
    projection.stage.draw();
    Object.assign(at("projection-layer"), { max: String(shares.length - 1), value: String(layer) });
    at("projection-layer").setAttribute("aria-valuetext", text.layer(layer));
    at("projection-layer-name").textContent = text.layer(layer);
    at("projection-method").textContent = text.method(visible(word), `${Math.round(100 * shares[layer])}%`);
    at("projection-shown").replaceChildren(projection.sentence(shown));
    at("nearest-name").textContent = text.nearest;
    at("nearest").replaceChildren(...nearest[layer][shown].map((other, rank) => make("li", {},
      make("button", { type: "button", className: "link", onclick: () => projection.keep(other) }, projection.sentence(other)),
      make("b", { textContent: signed(cosines[layer][shown][rank]) }))));
  },
  pictures: () => [projection.stage.picture("words")],
});
projection.stage = stage(projection);
projection.section.append(
  make("div", { className: "bar" },
    make("label", { className: "choose" }, make("span", { id: "projection-layer-name" }),
      make("input", { type: "range", id: "projection-layer", min: "0", oninput: (event) => { projection.layer = Number(event.target.value); projection.draw(); } }))),
  make("div", { className: "beside" }, projection.stage.scroll,
    make("div", {}, make("p", { id: "projection-shown", className: "shown" }), make("h3", { id: "nearest-name" }), make("ol", { id: "nearest", className: "nearest" }))),
  make("p", { className: "reading wrap quiet", id: "projection-method" }));
