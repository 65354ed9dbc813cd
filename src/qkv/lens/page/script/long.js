// A long map, zoomed like a street map. At level n a pixel of a tile stands for 2ⁿ × 2ⁿ pairs.

const phrases = {
  en: {
    lang: "en", other: "中文", otherLang: "zh-Hans", dark: "Dark", light: "Light", fit: "Fit",
    toDark: "Switch to dark", toLight: "Switch to light",
    layer: (n) => `Layer ${n}`, head: (n) => `Head ${n}`, query: "query ↓", key: "key →",
    back: { layer: "Previous layer", head: "Previous head" }, on: { layer: "Next layer", head: "Next head" },
    zoomIn: "Zoom in", zoomOut: "Zoom out", zoomFit: "Fit the whole map",
    hint: "Drag to move, wheel or pinch to zoom; hover for numbers.",
    pair: (query, key, value) => `${query} → ${key}: ${value}`,
    box: (queries, keys, mean, most) => `queries ${queries} × keys ${keys}: mean ${mean}, highest ${most}`,
    some: (share) => ` (from ${share} of these queries)`,
    exact: (side) => (side === 1 ? "Every pixel is one weight." : `A pixel is ${side} × ${side} weights: their mean and their highest.`) + " Exact.",
    early: (side, share) => `A pixel is ${side} × ${side} weights, so far read from ${share} of its queries; it becomes exact by itself.`,
    waiting: "Computing…", deepest: "This file goes no deeper.",
    map: (layer, head, queries, keys) => `Attention of layer ${layer}, head ${head}: ${queries} queries down, ${keys} keys across. Arrow keys move, + and − zoom.`,
    view: (queries, keys) => `Queries ${queries}, keys ${keys}`,
    keys: [["←", "→", "↑", "↓"], " move  ", ["+", "−", "0"], " zoom  ", ["Shift"], " with arrows: head, layer"],
    all: "All heads", allNote: "layers down, heads across, each from 64 queries",
    heads: (layers, heads, layer, head) => `${layers} layers of ${heads} heads as small maps. Open: layer ${layer}, head ${head}. Shift with arrow keys chooses another.`,
    legend: (top) => `Shades from 0 to ${top} and above`, broken: "This map could not be drawn: ", gone: "the server does not answer.",
  },
  zh: {
    lang: "zh-Hans", other: "English", otherLang: "en", dark: "深色", light: "浅色", fit: "适应",
    toDark: "切换到深色", toLight: "切换到浅色",
    layer: (n) => `第 ${n} 层`, head: (n) => `第 ${n} 头`, query: "查询 ↓", key: "键 →",
    back: { layer: "上一层", head: "上一头" }, on: { layer: "下一层", head: "下一头" },
    zoomIn: "放大", zoomOut: "缩小", zoomFit: "显示整幅图",
    hint: "拖动可平移，滚轮或双指可缩放；指针所在处显示数值。",
    pair: (query, key, value) => `${query} → ${key}：${value}`,
    box: (queries, keys, mean, most) => `查询 ${queries} × 键 ${keys}：平均 ${mean}，最高 ${most}`,
    some: (share) => `（仅据其中 ${share} 的查询）`,
    exact: (side) => (side === 1 ? "每个像素就是一个权重，" : `每个像素代表 ${side} × ${side} 个权重的平均值与最高值，`) + "数值精确。",
    early: (side, share) => `每个像素代表 ${side} × ${side} 个权重，目前只读了其中 ${share} 的查询，稍后自动变为精确值。`,
    waiting: "计算中……", deepest: "此文件不含更细的层级。",
    map: (layer, head, queries, keys) => `第 ${layer} 层第 ${head} 头的注意力：纵向 ${queries} 个查询，横向 ${keys} 个键。方向键平移，+ 和 − 缩放。`,
    view: (queries, keys) => `查询 ${queries}，键 ${keys}`,
    keys: [["←", "→", "↑", "↓"], " 平移  ", ["+", "−", "0"], " 缩放  ", ["Shift"], " 加方向键：换头、换层"],
    all: "全部注意力头", allNote: "纵向为层，横向为头，每幅取 64 个查询",
    heads: (layers, heads, layer, head) => `${layers} 层，每层 ${heads} 头的缩略图。当前：第 ${layer} 层第 ${head} 头。Shift 加方向键切换。`,
    legend: (top) => `色阶从 0 到 ${top} 及以上`, broken: "无法绘制此图：", gone: "服务器没有应答。",
  },
};

const SIDE = 256, AT_ONCE = 4, MOST_TILES = 160, AGAIN = 500, LARGEST = 40;
const place = {
  language: page?.language ?? ((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en"),
  layer: 0, head: 0, x: 0, y: 0, scale: 0, pointer: null,
};
const text = () => phrases[place.language];
const area = at("area"), canvas = at("map"), tiles = new Map(), asked = new Set();
let opened = null, info = null, context = null, left = 0, upper = 0, width = 0, height = 0, later = 0, frame = 0;

const percent = (value) => (value > 0 && value < 5e-7 ? "<0.0001%" : `${Number((100 * value).toPrecision(value < 0.001 ? 2 : 3))}%`);
const share = (read) => (read < 0.5 ? `1/${Math.round(1 / read)}` : `${Math.round(100 * read)}%`);
const range = (from, to) => (to - from <= 1 ? `${from}` : `${from}–${to - 1}`);

// ---- where tiles come from: this file, or the server

const inflate = async (packed) => {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer();
};
const ask = async (path) => {
  const answer = await fetch(path).catch(() => { throw new Error(text().gone); });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? answer.statusText);
  return answer;
};
const source = {
  map: async () => opened.map ?? (await ask(`/api/map/${opened.name}/${place.layer}/${place.head}`)).json(),
  tile: async (name, path) => {
    if (opened.tiles) return inflate(opened.tiles[path]);
    return (await ask(`/api/tile/${opened.name}/${name}`)).arrayBuffer();
  },
};

const unpack = (content) => {
  const head = new DataView(content), rows = head.getUint16(0, true), columns = head.getUint16(2, true);
  const steps = [head.getFloat32(4, true), head.getFloat32(8, true)], size = rows * columns;
  const planes = steps.map((step, i) => Float32Array.from(new Uint16Array(content, 16 + 2 * i * size, size), (number) => number * step));
  return { rows, columns, mean: planes[0], most: planes[1], read: head.getFloat32(12, true) };
};

// A pixel lies half-way between the shade of the mean and that of the highest, as in a small map.
const paint = (tile, peak) => {
  const shade = (value) => 255 * Math.sqrt(Math.min(1, value / peak));
  const image = new ImageData(tile.columns, tile.rows), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colour.pixels[Math.round((shade(tile.mean[i]) + shade(tile.most[i])) / 2)];
  const drawn = make("canvas", { width: tile.columns, height: tile.rows });
  drawn.getContext("2d").putImageData(image, 0, 0);
  return drawn;
};

const nameOf = (level, row, column) => `${place.layer}/${place.head}/${level}/${row}/${column}`;
const fetchTile = async ([level, row, column]) => {
  const name = nameOf(level, row, column), map = opened;
  let failed = false;
  asked.add(name);
  try {
    const content = await source.tile(name, `${level}/${row}/${column}`);
    if (map !== opened) return;
    tiles.delete(name);
    tiles.set(name, unpack(content));
    if (tiles.size > MOST_TILES) tiles.delete(tiles.keys().next().value);
    at("broken").hidden = true;
    soon();
  } catch (error) {
    // It is asked for again when something moves.
    failed = true;
    if (map !== opened) return;
    at("broken").textContent = text().broken + error.message;
    at("broken").hidden = false;
  } finally {
    asked.delete(name);
    if (!failed) fill();
  }
};

// ---- what is seen

const finest = () => opened.finest ?? 0;
const levelNow = () => {
  const wanted = Math.floor(-Math.log2(place.scale * ratio()));
  return Math.max(finest(), Math.min(info.levels - 1, wanted));
};
const seen = (level) => {
  const span = SIDE * 2 ** level, found = [];
  const last = (from, size, count) => Math.min(Math.ceil(count / span), Math.ceil((from + size / place.scale) / span));
  for (let row = Math.max(0, Math.floor(place.y / span)); row < last(place.y, height, info.queries); row++)
    for (let column = Math.max(0, Math.floor(place.x / span)); column < last(place.x, width, info.keys); column++)
      found.push([level, row, column]);
  return found;
};
const wanted = () => {
  const level = levelNow(), middle = (place.y + height / place.scale / 2), across = (place.x + width / place.scale / 2);
  const span = SIDE * 2 ** level, far = ([, row, column]) => Math.hypot((row + 0.5) * span - middle, (column + 0.5) * span - across);
  return [[info.levels - 1, 0, 0], ...seen(level).sort((a, b) => far(a) - far(b))];
};
const fill = () => {
  if (!info) return;
  for (const tile of wanted())
    if (asked.size < AT_ONCE && !tiles.has(nameOf(...tile)) && !asked.has(nameOf(...tile))) fetchTile(tile);
  clearTimeout(later);
  const early = wanted().filter((tile) => tiles.get(nameOf(...tile))?.read < 1);
  if (early.length) later = setTimeout(() => early.slice(0, AT_ONCE).forEach((tile) => asked.has(nameOf(...tile)) || fetchTile(tile)), AGAIN);
};

const drawTile = (level, row, column) => {
  const tile = tiles.get(nameOf(level, row, column));
  if (!tile) return;
  if (tile.theme !== root.dataset.theme || tile.peak !== info.peak)
    Object.assign(tile, { theme: root.dataset.theme, peak: info.peak, drawn: paint(tile, info.peak) });
  const r = ratio(), span = SIDE * 2 ** level, side = 2 ** level;
  // The last pixel of a side may stand for fewer pairs than the others.
  const right = Math.min(info.keys, column * span + tile.columns * side), bottom = Math.min(info.queries, row * span + tile.rows * side);
  const x = (left + (column * span - place.x) * place.scale) * r, y = (upper + (row * span - place.y) * place.scale) * r;
  const wide = (right - column * span) / side, high = (bottom - row * span) / side;
  // Pixels of a fraction of the screen's would make a pattern of their own.
  context.imageSmoothingEnabled = side * place.scale * r < 3;
  context.drawImage(tile.drawn, 0, 0, wide, high, x, y, wide * side * place.scale * r, high * side * place.scale * r);
};

const draw = () => {
  if (!info) return;
  const r = ratio(), unit = rem(), level = levelNow();
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.beginPath();
  context.rect(left * r, upper * r, width * r, height * r);
  context.clip();
  for (let coarse = info.levels - 1; coarse >= level; coarse--) seen(coarse).forEach((tile) => drawTile(...tile));
  if (place.pointer) {
    const cell = under(place.pointer);
    if (cell) {
      context.strokeStyle = colour.pick;
      context.lineWidth = 1.5 * r;
      context.strokeRect((left + (cell.key - place.x) * place.scale) * r, (upper + (cell.query - place.y) * place.scale) * r,
        Math.max(4, cell.side * place.scale) * r, Math.max(4, cell.side * place.scale) * r);
    }
  }
  context.restore();
  axis(opened.tokens ?? [], true);
  axis(opened.tokens ?? [], false);
  context.font = `${unit * 0.72 * r}px ${family}`;
  context.fillStyle = colour.quiet;
  context.textAlign = "right";
  context.textBaseline = "alphabetic";
  context.fillText(text().key, (left - 0.5 * unit) * r, (upper - 2.4 * unit) * r);
  context.fillText(text().query, (left - 0.5 * unit) * r, (upper - 1.35 * unit) * r);
  explain(level);
  read();
};

// Tokens where they have room, else positions at round numbers.
const axis = (names, across) => {
  const r = ratio(), unit = rem(), size = 0.78 * unit, from = across ? place.x : place.y, count = across ? info.keys : info.queries;
  const start = across ? left : upper, room = across ? width : height, named = names.length === count && place.scale >= size * 1.1;
  const apart = named ? 0 : across ? 4.2 * unit : 2 * unit;
  let step = 1;
  for (let i = 0; step * place.scale < apart; i++) step = [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3);
  context.save();
  context.beginPath();
  if (across) context.rect((left - (named ? 0 : 2 * unit)) * r, 0, (room + 2 * unit) * r, upper * r);
  else context.rect(0, (upper - size) * r, left * r, (room + size) * r);
  context.clip();
  context.fillStyle = colour.ink;
  context.font = `${size * r}px ${family}`;
  for (let i = Math.max(0, Math.ceil(from / step) * step - (named ? 1 : 0)); i < Math.min(count, from + room / place.scale); i += step) {
    const centre = start + (i - from + (named ? 0.5 : 0)) * place.scale;
    context.save();
    context.translate((across ? centre : left - 0.4 * unit) * r, (across ? upper - 0.4 * unit : centre) * r);
    context.textAlign = across ? (named ? "left" : "center") : "right";
    context.textBaseline = across && !named ? "alphabetic" : "middle";
    if (across && named) context.rotate(-Math.PI / 2);
    context.fillText(named ? isolated(visible(names[i].slice(0, 12))) : String(i), 0, 0);
    context.restore();
  }
  context.restore();
};

const explain = (level) => {
  const shares = seen(level).map((tile) => tiles.get(nameOf(...tile))?.read), side = 2 ** level;
  const least = Math.min(...shares.map((read) => read ?? 0));
  root.dataset.read = least;
  root.dataset.level = level;
  const deepest = level === finest() && level > 0 && place.scale * ratio() * side >= 2 ? ` ${text().deepest}` : "";
  at("exact").textContent = (least === 0 ? text().waiting : least < 1 ? text().early(side, share(least)) : text().exact(side)) + deepest;
};

// What is at a place: the finest tile that is there.
const under = ({ x, y }) => {
  const key = Math.floor(place.x + (x - left) / place.scale), query = Math.floor(place.y + (y - upper) / place.scale);
  if (x < left || y < upper || key < 0 || query < 0 || key >= info.keys || query >= info.queries) return null;
  for (let level = levelNow(); level < info.levels; level++) {
    const side = 2 ** level, row = Math.floor(query / side), column = Math.floor(key / side);
    const tile = tiles.get(nameOf(level, Math.floor(row / SIDE), Math.floor(column / SIDE)));
    if (!tile) continue;
    const i = (row % SIDE) * tile.columns + (column % SIDE);
    return { side, query: row * side, key: column * side, mean: tile.mean[i], most: tile.most[i], read: tile.read };
  }
  return null;
};
const read = () => {
  const cell = place.pointer && under(place.pointer);
  if (!cell) return at("reading").replaceChildren(make("span", { className: "quiet", textContent: text().hint }));
  const label = (i) => (opened.tokens ? `${i} ${isolated(visible(opened.tokens[i].slice(0, 40)))}` : String(i));
  const { side, query, key, mean, most } = cell, to = (from, count) => Math.min(from + side, count);
  at("reading").textContent = side === 1
    ? text().pair(label(query), label(key), percent(mean))
    : text().box(range(query, to(query, info.queries)), range(key, to(key, info.keys)), percent(mean), percent(most)) +
      (cell.read < 1 ? text().some(share(cell.read)) : "");
};

// ---- moving

const soon = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
const moved = () => tell({ moved: { layer: place.layer, head: place.head, x: place.x, y: place.y, scale: place.scale } });
const least = () => Math.min(width / info.keys, height / info.queries, LARGEST);
const within = () => {
  place.scale = Math.min(LARGEST, Math.max(least(), place.scale));
  for (const [axis, room, count] of [["x", width, info.keys], ["y", height, info.queries]])
    place[axis] = Math.max(0, Math.min(place[axis], count - room / place.scale));
  at("out").disabled = at("fit").disabled = place.scale <= least() * 1.0001;
  at("in").disabled = place.scale >= LARGEST;
};
const go = () => { within(); soon(); fill(); moved(); };
const pan = (x, y) => { place.x += x / place.scale; place.y += y / place.scale; go(); };
const zoom = (factor, x = left + width / 2, y = upper + height / 2) => {
  const key = place.x + (x - left) / place.scale, query = place.y + (y - upper) / place.scale;
  place.scale = factor === 0 ? least() : Math.min(LARGEST, Math.max(least(), place.scale * factor));
  Object.assign(place, { x: key - (x - left) / place.scale, y: query - (y - upper) / place.scale });
  go();
};
const announce = () => {
  const to = (from, room, count) => range(Math.round(from), Math.min(count, Math.round(from + room / place.scale)));
  at("live").textContent = text().view(to(place.y, height, info.queries), to(place.x, width, info.keys));
};

const layout = () => {
  const unit = rem();
  layoutGlance();
  left = Math.ceil(5.6 * unit);
  upper = Math.ceil(5 * unit);
  context = resize(canvas, area.clientWidth, area.clientHeight);
  [width, height] = [area.clientWidth - left, area.clientHeight - upper];
  if (info) go();
};

const choose = async (layer, head) => {
  const several = opened.layers * opened.heads > 1;
  place.layer = (layer + opened.layers) % opened.layers;
  place.head = (head + opened.heads) % opened.heads;
  for (const id of ["layer-back", "layer-on", "head-back", "head-on"]) at(id).hidden = !several;
  const chosen = `${opened.name}/${place.layer}/${place.head}`;
  say();
  drawGlance();
  const found = await source.map();
  if (chosen !== `${opened.name}/${place.layer}/${place.head}`) return;
  info = found;
  const top = percent(Number(info.peak.toPrecision(2)));
  at("top").textContent = info.peak < 1 ? `≥ ${top}` : top;
  at("legend").setAttribute("aria-label", text().legend(top));
  area.setAttribute("aria-label", text().map(opened.layer ?? place.layer, opened.head ?? place.head, info.queries, info.keys));
  at("broken").hidden = true;
  go();
};

const show = async (map, spot) => {
  opened = map;
  opened.layers ??= 1;
  opened.heads ??= 1;
  tiles.clear();
  Object.assign(place, { layer: 0, head: 0, x: 0, y: 0, scale: 0 }, spot);
  place.layer = Math.min(place.layer, opened.layers - 1);
  place.head = Math.min(place.head, opened.heads - 1);
  at("title").textContent = visible(opened.title);
  layout();
  await choose(place.layer, place.head);
  fillGlance();
};

const say = () => {
  const t = text(), dark = root.dataset.theme === "dark";
  root.lang = t.lang;
  at("layer").textContent = t.layer(opened ? (opened.layer ?? place.layer) : 0);
  at("head").textContent = t.head(opened ? (opened.head ?? place.head) : 0);
  Object.assign(at("language"), { textContent: t.other, lang: t.otherLang });
  at("theme").textContent = dark ? t.light : t.dark;
  at("fit").textContent = t.fit;
  at("glance-name").replaceChildren(t.all, make("span", { className: "quiet note", textContent: t.allNote }));
  const name = (id, label) => { at(id).setAttribute("aria-label", label); at(id).title = label; };
  name("theme", dark ? t.toLight : t.toDark);
  for (const part of ["layer", "head"]) { name(`${part}-back`, t.back[part]); name(`${part}-on`, t.on[part]); }
  name("in", t.zoomIn); name("out", t.zoomOut); name("fit", t.zoomFit);
  at("keys").replaceChildren(...t.keys.flatMap((part) =>
    typeof part === "string" ? [part] : part.flatMap((key, i) => [i ? " " : "", make("kbd", { textContent: key })])));
  mix();
  const legend = at("legend");
  legend.width = 256; legend.height = 1;
  for (let i = 0; i < 256; i++) {
    const bar = legend.getContext("2d");
    bar.fillStyle = colour.css[Math.round(255 * Math.sqrt(i / 255))];
    bar.fillRect(i, 0, 1, 1);
  }
};
const redraw = () => { say(); soon(); drawGlance(); };

const press = {
  "+": () => zoom(2), "=": () => zoom(2), "-": () => zoom(0.5), "−": () => zoom(0.5), 0: () => zoom(0),
};
const listen = () => {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !info) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (steps && event.shiftKey) choose(place.layer + steps[1], place.head + steps[0]).catch(broken);
    else if (steps) pan(steps[0] * width / 4, steps[1] * height / 4);
    else if (Object.hasOwn(press, event.key)) press[event.key]();
    else return;
    event.preventDefault();
    announce();
  });
  const held = new Map();
  const spot = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  area.addEventListener("pointerdown", (event) => { area.setPointerCapture(event.pointerId); held.set(event.pointerId, spot(event)); });
  area.addEventListener("pointermove", (event) => {
    if (!info) return;
    const now = spot(event), before = held.get(event.pointerId);
    place.pointer = now;
    if (before) {
      const wide = held.size === 2 && apart();
      held.set(event.pointerId, now);
      area.dataset.dragged = "";
      if (wide) zoom(apart() / wide, now.x, now.y);
      else pan(before.x - now.x, before.y - now.y);
    } else soon();
  });
  for (const end of ["pointerup", "pointercancel"])
    area.addEventListener(end, (event) => { held.delete(event.pointerId); delete area.dataset.dragged; });
  area.addEventListener("pointerleave", () => { place.pointer = null; soon(); });
  area.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (info) zoom(2 ** (-event.deltaY / (event.deltaMode ? 6 : 240)), spot(event).x, spot(event).y);
  }, { passive: false });
  area.addEventListener("dblclick", (event) => info && zoom(2, spot(event).x, spot(event).y));
  at("in").onclick = () => zoom(2);
  at("out").onclick = () => zoom(0.5);
  at("fit").onclick = () => zoom(0);
  at("layer-back").onclick = () => choose(place.layer - 1, place.head).catch(broken);
  at("layer-on").onclick = () => choose(place.layer + 1, place.head).catch(broken);
  at("head-back").onclick = () => choose(place.layer, place.head - 1).catch(broken);
  at("head-on").onclick = () => choose(place.layer, place.head + 1).catch(broken);
  at("language").onclick = () => { place.language = place.language === "en" ? "zh" : "en"; redraw(); };
  at("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; redraw(); };
  window.addEventListener("resize", () => { layout(); });
};

const broken = (error) => {
  at("broken").textContent = text().broken + error.message;
  at("broken").hidden = false;
  throw error;
};
const tell = (message) => { if (parent !== window) parent.postMessage({ qkv: message }, "*"); };
const turn = async ({ long, at: spot, layer, head, language, theme, bare }) => {
  if (bare) root.dataset.bare = "";
  if (language) place.language = language;
  if (theme) root.dataset.theme = theme;
  redraw();
  layout();
  if (long) await show(long, spot);
  else if (layer !== undefined && opened && (layer !== place.layer || head !== place.head)) await choose(layer, head);
};

root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
listen();
say();
layout();
if (page) show(page).catch(broken);
else {
  addEventListener("message", ({ source: from, data }) => { if (from === parent && data?.qkv) turn(data.qkv).catch(broken); });
  tell({ ready: true });
}
