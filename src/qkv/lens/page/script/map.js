// One head large; `scale` is device pixels per token, below 1 the map is pooled.

const map = { canvas: at("map"), scroll: at("scroll"), space: at("space") };

// The margins that a map's labels need in a room, in CSS pixels, and how many device pixels a token can have there.
const measureMap = ({ labels, targets }, room, tall, r) => {
  const unit = rem();
  ruler.font = font(unit * 0.82 * r);
  const widestOf = (names) => names.reduce((most, label) => Math.max(most, ruler.measureText(shorten(ruler, label, 11 * unit * r)).width), 0) / r;
  const widest = widestOf(labels), widestTarget = widestOf(targets);
  const left = Math.ceil(Math.max(Math.min(widest, room * 0.25, 8.5 * unit) + unit * 1.1, unit * 3.6));
  const fitting = (top) => Math.min(5.5 * unit * r, ((room - left) * r - 4) / targets.length, ((tall - top) * r - 4) / labels.length);
  const flat = widestTarget + unit * 0.75 <= fitting(2 * unit) / r - 1;
  const top = Math.ceil(Math.max(flat ? 2 * unit : Math.min(widestTarget, room * 0.22, 7 * unit) + unit, unit * 2.6));
  const free = fitting(top);
  return { left, top, flat, fit: free >= 1 ? Math.floor(free) : free };
};

tab({
  name: "map", beside: true, heads: true,
  words: { en: { tab: "Map" }, zh: { tab: "热图" } },
  there: () => true,
  layout: () => layoutMap(),
  draw() { drawMap(); drawRow(); },
  pictures() {
    const { width, height } = grid.canvas, r = ratio();
    const heads = { name: "heads", width: width / r, height: height / r, paint: (context) => paintGrid(context, 1) };
    return [heads, wholeMap()];
  },
});

// The whole head, however far it is zoomed on the screen, as large as it is at least readable.
const wholeMap = () => {
  const { labels, targets } = state.view, scale = Math.max(2, map.fit / ratio());
  const { left, top, flat } = measureMap(state.view, 60 * rem() + 2 * targets.length, 60 * rem() + 2 * labels.length, 1);
  const width = left + targets.length * scale + 4, height = top + labels.length * scale + 4;
  const look = { left, top, flat: flat && map.flat, scale, r: 1, width, height, fromX: 0, fromY: 0 };
  return { name: "map", width, height, paint: (context) => paintMap(context, { ...look, view: state.view, head: open(), shown: state.pinned }) };
};

const layoutMap = () => {
  const { labels, targets } = state.view, r = ratio(), unit = rem();
  const wide = matchMedia("(min-width: 861px)").matches, all = at("panel").clientWidth;
  const room = Math.floor(wide ? all * 0.53 : all) - 2;
  const tall = Math.max(18 * unit, wide ? window.innerHeight - 18.5 * unit : Math.min(window.innerHeight * 0.8, room + 2 * unit));
  const grown = state.scale > (map.fit ?? 0);
  Object.assign(map, measureMap(state.view, room, tall, r));
  if (!grown || state.scale < map.fit) state.scale = map.fit;
  const filled = Math.ceil(map.left + (targets.length * map.fit) / r + 0.4 * unit);
  map.scroll.parentElement.style.width = wide ? `${Math.min(room, Math.max(filled, 30 * unit)) + 2}px` : "";
  map.height = Math.min(Math.ceil(map.top + (labels.length * map.fit) / r + 0.4 * unit), Math.ceil(tall));
  map.scroll.style.height = `${map.height + 2}px`;
  placeMap();
};

const placeMap = () => {
  const { labels, targets } = state.view, r = ratio();
  const grown = state.scale > map.fit;
  map.scroll.style.overflow = grown ? "auto" : "hidden";
  map.space.style.width = grown ? `${Math.ceil(map.left + (targets.length * state.scale) / r + 4)}px` : "100%";
  map.space.style.height = grown ? `${Math.ceil(map.top + (labels.length * state.scale) / r + 4)}px` : "100%";
  map.context = resize(map.canvas, map.scroll.clientWidth, map.scroll.clientHeight);
  at("out").disabled = at("fit").disabled = !grown;
  at("in").disabled = state.scale >= 64 * r;
  drawMap();
};

const drawMap = () => {
  const { canvas, scroll, left, top, flat } = map, r = ratio();
  Object.assign(canvas.dataset, { left, top, cell: state.scale / r });
  paintMap(map.context, {
    view: state.view, head: open(), left, top, flat, scale: state.scale, r, width: canvas.width, height: canvas.height,
    fromX: Math.round(scroll.scrollLeft * r), fromY: Math.round(scroll.scrollTop * r), shown: state.hover ?? state.pinned,
  });
};

// `left` and `top` are in CSS pixels, all else in device pixels.
const paintMap = (context, look) => {
  const { head, r, scale, fromX, fromY, width: wholeWidth, height: wholeHeight, shown } = look, unit = rem();
  const { labels, targets } = look.view;
  const left = Math.round(look.left * r), top = Math.round(look.top * r);
  const wide = wholeWidth - left, high = wholeHeight - top;
  const endX = targets.length * scale, endY = labels.length * scale;
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, wholeWidth, wholeHeight);
  const first = (from) => Math.max(0, Math.floor(from / scale));
  const last = (from, length, count) => Math.min(count, Math.ceil((from + length) / scale));
  const keys = [first(fromX), last(fromX, wide, targets.length)], queries = [first(fromY), last(fromY, high, labels.length)];

  context.save();
  context.beginPath();
  context.rect(left, top, Math.min(wide, endX - fromX), Math.min(high, endY - fromY));
  context.clip();
  if (head) {
    const [width, height] = [targets, labels].map(({ length }) => (scale >= 1 ? length : Math.max(1, Math.floor(length * scale))));
    paintCells(context, head, width, height, [left - fromX, top - fromY, endX, endY]);
    if (scale >= 8 * r) {
      context.fillStyle = colour.surface;
      const line = Math.max(1, Math.round(scale / 40));
      for (let key = keys[0]; key < keys[1]; key++) context.fillRect(left - fromX + (key + 1) * scale - line, top, line, high);
      for (let query = queries[0]; query < queries[1]; query++) context.fillRect(left, top - fromY + (query + 1) * scale - line, wide, line);
    }
    if (scale >= 2.1 * unit * r) {
      context.font = font(unit * 0.72 * r);
      context.textAlign = "center";
      context.textBaseline = "middle";
      for (let query = queries[0]; query < queries[1]; query++)
        for (let key = keys[0]; key < keys[1]; key++) {
          const value = Math.round(100 * weight(head, query, key));
          if (!value) continue;
          context.fillStyle = colour.on(head.shades[head.numbers[key * head.queries + query]]);
          context.fillText(String(value), left - fromX + (key + 0.5) * scale, top - fromY + (query + 0.52) * scale);
        }
    }
  }
  const line = Math.max(1, Math.round(1.5 * r));
  context.strokeStyle = colour.pick;
  context.lineWidth = line;
  const thick = Math.max(scale, 3 * r);
  const frame = (x, y, width, height) => context.strokeRect(left - fromX + x + line / 2, top - fromY + y + line / 2, width - line, height - line);
  if (shown.query >= 0) frame(0, shown.query * scale, endX, thick);
  else if (shown.key >= 0) frame(shown.key * scale, 0, thick, endY);
  if (shown.query >= 0 && shown.key >= 0) {
    context.lineWidth = 2 * line;
    frame(shown.key * scale - line / 2, shown.query * scale - line / 2, thick + line, thick + line);
  }
  context.restore();

  const fromKeys = { names: targets, from: fromX, range: keys, start: left, chosen: shown.key, horizontal: true };
  const fromQueries = { names: labels, from: fromY, range: queries, start: top, chosen: shown.query, horizontal: false };
  paintLabels(context, look, fromKeys, left, top);
  paintLabels(context, look, fromQueries, left, top);
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, left, top);
  context.font = font(unit * 0.72 * r);
  context.fillStyle = colour.quiet;
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText(text().key, left - 0.5 * unit * r, top - 1.5 * unit * r);
  context.fillText(text().query, left - 0.5 * unit * r, top - 0.45 * unit * r);
};
