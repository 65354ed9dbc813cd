// Encoder and decoder of one text: what the source sees of itself, the target of the source, and the target of itself.

const alignment = tab({
  name: "alignment", beside: false, heads: true, ofTokens: true, over: null, kept: null,
  words: {
    en: {
      tab: "Alignment", encoder: "Encoder: source → source", cross: "Cross: target → source", decoder: "Decoder: target → target",
      says: () => "Three maps beside each other: source to source, target to source, target to target. Up and down choose a target token.",
      hint: "Point at a cell: its target and its source are marked in the other maps too.",
    },
    zh: {
      tab: "对齐", encoder: "编码器：源 → 源", cross: "交叉：目标 → 源", decoder: "解码器：目标 → 目标",
      says: () => "并排的三幅图：源到源、目标到源、目标到目标。上下键选择目标词元。",
      hint: "指向一个格子：它的目标词元与源词元在另外两幅图中也会标出。",
    },
  },
  there: (view) => view.group !== null && alignment.members(view).length > 1,
  members: (view) => ["encoder", "cross", "decoder"].flatMap((part) =>
    page.views.find((one) => view.group !== null && one.group === view.group && one.part === part) ?? []),

  // Where each map stands: beside one another, or below where the window is narrow.
  places(width) {
    const unit = rem(), members = alignment.members(state.view), across = width > 46 * unit ? members.length : 1;
    const room = (width - (across - 1) * unit) / across, tall = Math.min(room * 1.15, 34 * unit);
    let x = 0, y = 0;
    return members.map((whole) => {
      const view = named(whole), look = measureMap(view, room, tall, 1), scale = look.fit;
      const size = { width: Math.min(room, look.left + view.targets.length * scale + 2), height: look.top + view.labels.length * scale + 2 };
      const place = { part: whole.part, view, look, scale, x: Math.round(x), y: Math.round(y + 2 * unit), ...size };
      if (across > 1) x += room + unit;
      else y += size.height + 3 * unit;
      return place;
    });
  },
  height: (width) => Math.max(...alignment.places(width).map(({ y, height }) => y + height)) + rem(),
  head: (view) => Math.min(state.layer, view.layers - 1) * view.heads + Math.min(state.head, view.heads - 1),

  // What a cell of one map marks in the others.
  shown(part) {
    const { part: from, query, key } = alignment.over ?? alignment.kept;
    if (part === from) return { query, key };
    const target = from === "encoder" ? -1 : query, sourced = from === "encoder" ? query : from === "cross" ? key : -1;
    if (part === "encoder") return { query: sourced, key: -1 };
    if (part === "decoder") return { query: target, key: -1 };
    return target >= 0 ? { query: target, key: -1 } : { query: -1, key: sourced };
  },
  paint(context, { width }) {
    const unit = rem();
    for (const { part, view, look, scale, x, y, ...size } of alignment.places(width)) {
      context.save();
      context.translate(x, y);
      const head = view.ready?.[alignment.head(view)];
      paintMap(context, { view, head, ...look, scale, r: 1, width: size.width, height: size.height, fromX: 0, fromY: 0, shown: alignment.shown(part) });
      context.font = font(0.87 * unit, 600);
      context.fillStyle = colour.ink;
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.fillText(alignment.text[part], 0.4 * unit, -unit);
      context.restore();
    }
  },

  cellAt({ x, y }) {
    for (const place of alignment.places(alignment.stage.scroll.clientWidth)) {
      const key = Math.floor((x - place.x - place.look.left) / place.scale), query = Math.floor((y - place.y - place.look.top) / place.scale);
      const { labels, targets } = place.view;
      if (key >= 0 && query >= 0 && key < targets.length && query < labels.length) return { part: place.part, query, key };
    }
    return null;
  },
  aim(spot) { alignment.over = spot && alignment.cellAt(spot); alignment.draw(); },
  pick(spot) { alignment.kept = alignment.cellAt(spot) ?? alignment.kept; alignment.draw(); alignment.speak(); },
  press(key) {
    const cross = alignment.places(1).find(({ part }) => part === "cross"), step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!step || !cross) return false;
    const from = alignment.kept.part === "cross" ? alignment.kept.query : 0;
    alignment.kept = { part: "cross", query: Math.max(0, Math.min(cross.view.labels.length - 1, from + step)), key: -1 };
    alignment.draw();
    alignment.speak();
    return true;
  },
  speak() { at("live").textContent = at("alignment-reading").textContent; },

  tell() {
    const { part, query, key } = alignment.over ?? alignment.kept, view = alignment.places(1).find((place) => place.part === part)?.view;
    const head = view?.ready?.[alignment.head(view)];
    if (!head) return alignment.text.hint;
    if (key >= 0) return text().cell(view.labels[query], view.targets[key], percent(weight(head, query, key)));
    return text().says(view.labels[query], strongest(vector(head, { query, key }), 5).map(([value, i]) => `${view.targets[i]} ${percent(value)}`).join(", "));
  },
  enter() {
    const [{ part, view }] = alignment.places(1).filter(({ part }, _, all) => part === "cross" || all.every((one) => one.part !== "cross"));
    Object.assign(alignment, { over: null, kept: { part, query: Math.min(view.query ?? 0, view.labels.length - 1), key: -1 } });
  },
  async draw() {
    alignment.stage.draw();
    at("alignment-reading").textContent = alignment.tell();
    const waiting = alignment.places(1).filter(({ view }) => !view.ready?.[alignment.head(view)]);
    if (!waiting.length) return;
    await Promise.all(waiting.map(({ view }) => headAt(view, alignment.head(view))));
    if (active() === alignment) alignment.draw();
  },
  pictures: () => [alignment.stage.picture()],
});
alignment.stage = stage(alignment);
alignment.section.append(alignment.stage.scroll, make("p", { className: "reading wrap", id: "alignment-reading" }));
