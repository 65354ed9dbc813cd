// One head large; `scale` is device pixels per token, below 1 the map is pooled.

const map = { canvas: at("map"), scroll: at("scroll"), space: at("space") };

const layoutMap = (keep = false) => {
  const { labels, targets } = state.view, r = ratio(), unit = rem();
  const wide = matchMedia("(min-width: 861px)").matches, all = at("main").clientWidth;
  const room = Math.floor(wide ? all * 0.53 : all) - 2;
  const context = map.canvas.getContext("2d");
  context.font = `${unit * 0.82 * r}px ${family}`;
  const widestOf = (names) => names.reduce((most, label) => Math.max(most, context.measureText(shorten(context, label, 11 * unit * r)).width), 0) / r;
  const widest = widestOf(labels), widestTarget = widestOf(targets);
  const tall = Math.max(18 * unit, wide ? window.innerHeight - 15.5 * unit : Math.min(window.innerHeight * 0.8, room + 2 * unit));
  map.left = Math.ceil(Math.min(widest, room * 0.25, 8.5 * unit) + unit * 1.1);
  map.left = Math.max(map.left, Math.ceil(unit * 3.6));
  const fitting = (top) => Math.min(5.5 * unit * r, ((room - map.left) * r - 4) / targets.length, ((tall - top) * r - 4) / labels.length);
  map.flat = widestTarget + unit * 0.4 <= fitting(2 * unit) / r;
  map.top = Math.ceil(map.flat ? 2 * unit : Math.min(widestTarget, room * 0.22, 7 * unit) + unit);
  map.top = Math.max(map.top, Math.ceil(unit * 2.6));
  const free = fitting(map.top);
  map.fit = free >= 1 ? Math.floor(free) : free;
  if (!keep || state.scale < map.fit) state.scale = map.fit;
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
  map.picture = null;
  drawMap();
};

const drawMap = () => {
  const head = open(), { context, canvas } = map, r = ratio(), unit = rem();
  const { labels, targets } = state.view, scale = state.scale;
  const left = Math.round(map.left * r), top = Math.round(map.top * r);
  const fromX = Math.round(map.scroll.scrollLeft * r), fromY = Math.round(map.scroll.scrollTop * r);
  const wide = canvas.width - left, high = canvas.height - top;
  const endX = targets.length * scale, endY = labels.length * scale;
  canvas.dataset.left = map.left; canvas.dataset.top = map.top; canvas.dataset.cell = scale / r;
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const first = (from) => Math.max(0, Math.floor(from / scale));
  const last = (from, length, count) => Math.min(count, Math.ceil((from + length) / scale));
  const keys = [first(fromX), last(fromX, wide, targets.length)], queries = [first(fromY), last(fromY, high, labels.length)];

  context.save();
  context.beginPath();
  context.rect(left, top, Math.min(wide, endX - fromX), Math.min(high, endY - fromY));
  context.clip();
  if (head) {
    const [width, height] = [targets, labels].map(({ length }) => (scale >= 1 ? length : Math.max(1, Math.floor(length * scale))));
    if (map.picture?.head !== head || map.picture.width !== width)
      map.picture = { head, width, image: picture(pool(head, width, height), width, height) };
    context.imageSmoothingEnabled = false;
    context.drawImage(map.picture.image, left - fromX, top - fromY, endX, endY);
    if (scale >= 8 * r) {
      context.fillStyle = colour.surface;
      const line = Math.max(1, Math.round(scale / 40));
      for (let key = keys[0]; key < keys[1]; key++) context.fillRect(left - fromX + (key + 1) * scale - line, top, line, high);
      for (let query = queries[0]; query < queries[1]; query++) context.fillRect(left, top - fromY + (query + 1) * scale - line, wide, line);
    }
    if (scale >= 2.1 * unit * r) {
      context.font = `${unit * 0.72 * r}px ${family}`;
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
  const shown = state.hover ?? state.pinned, line = Math.max(1, Math.round(1.5 * r));
  context.strokeStyle = colour.pick;
  context.lineWidth = line;
  const thick = Math.max(scale, 3 * r);
  const frame = (x, y, width, height) => context.strokeRect(left - fromX + x + line / 2, top - fromY + y + line / 2, width - line, height - line);
  if (shown.query >= 0) frame(0, shown.query * scale, endX, thick);
  else frame(shown.key * scale, 0, thick, endY);
  if (shown.query >= 0 && shown.key >= 0) {
    context.lineWidth = 2 * line;
    frame(shown.key * scale - line / 2, shown.query * scale - line / 2, thick + line, thick + line);
  }
  context.restore();

  const fromKeys = { names: targets, from: fromX, range: keys, start: left, chosen: shown.key, horizontal: true };
  const fromQueries = { names: labels, from: fromY, range: queries, start: top, chosen: shown.query, horizontal: false };
  drawLabels(fromKeys, left, top);
  drawLabels(fromQueries, left, top);
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, left, top);
  context.font = `${unit * 0.72 * r}px ${family}`;
  context.fillStyle = colour.quiet;
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText(text().key, left - 0.5 * unit * r, top - 1.5 * unit * r);
  context.fillText(text().query, left - 0.5 * unit * r, top - 0.45 * unit * r);
};
