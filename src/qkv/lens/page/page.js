"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  // ---- words of the interface, English and Chinese

  const words = {
    en: {
      lang: "en", other: "中文", otherLang: "zh-Hans",
      sentence: "Sentence", heads: "All heads", fit: "Fit", dark: "Dark", light: "Light",
      headsNote: "layers down, heads across",
      layer: (n) => `Layer ${n}`, head: (n) => `Head ${n}`,
      row: (token) => [token, " looks at"], column: (token) => ["Who looks at ", token],
      says: (token, list) => `${token} looks at: ${list}`, saysColumn: (token, list) => `${token} is looked at by: ${list}`,
      cell: (query, key, value) => `${query} looks at ${key}: ${value}`,
      query: "query ↓", key: "key →",
      hint: "Hover over a cell or a token, or tap it.",
      grid: (view, layer, head) =>
        `${view.layers} layers of ${view.heads} heads as small maps. Open: layer ${layer}, head ${head}. Arrow keys choose another.`,
      map: (layer, head, queries, keys) =>
        `Attention of layer ${layer}, head ${head}: ${queries} queries down, ${keys} keys across. Arrow keys move from cell to cell.`,
      image: "The picture: the brighter a part, the more it is looked at.",
      keysSeen: "What is looked at",
      legend: (top) => `Shades from 0 to ${top} and above`,
      back: { layer: "Previous layer", head: "Previous head" }, on: { layer: "Next layer", head: "Next head" },
      zoomIn: "Zoom in", zoomOut: "Zoom out", zoomFit: "Fit the whole map", toDark: "Switch to dark", toLight: "Switch to light",
      keys: [["←", "→"], " head  ", ["↑", "↓"], " layer  (with ", ["Shift"], " from anywhere); in the map and the tokens arrows move there;  ",
        ["+", "−", "0"], " zoom  ", ["[", "]"], " sentence"],
      unknown: (count) => (count === 1 ? "The dotted token is" : `${count} dotted tokens are`) + " not in the model’s vocabulary: it sees [UNK].",
      exact: (error) => `Numbered from 0. Every weight is within ${error} percentage points of the model’s.`,
      broken: "This page could not be drawn: ", old: "the browser is too old (it lacks DecompressionStream).",
    },
    zh: {
      lang: "zh-Hans", other: "English", otherLang: "en",
      sentence: "句子", heads: "全部注意力头", fit: "适应", dark: "深色", light: "浅色",
      headsNote: "纵向为层，横向为头",
      layer: (n) => `第 ${n} 层`, head: (n) => `第 ${n} 头`,
      row: (token) => [token, " 关注"], column: (token) => ["谁在关注 ", token],
      says: (token, list) => `${token} 关注：${list}`, saysColumn: (token, list) => `关注 ${token} 的有：${list}`,
      cell: (query, key, value) => `${query} 关注 ${key}：${value}`,
      query: "查询 ↓", key: "键 →",
      hint: "将指针移到格子或词元上，或轻触它。",
      grid: (view, layer, head) => `${view.layers} 层，每层 ${view.heads} 头的缩略图。当前：第 ${layer} 层第 ${head} 头。用方向键切换。`,
      map: (layer, head, queries, keys) => `第 ${layer} 层第 ${head} 头的注意力：纵向 ${queries} 个查询，横向 ${keys} 个键。用方向键逐格移动。`,
      image: "图像：越亮之处越受关注。",
      keysSeen: "被关注的部分",
      legend: (top) => `色阶从 0 到 ${top} 及以上`,
      back: { layer: "上一层", head: "上一头" }, on: { layer: "下一层", head: "下一头" },
      zoomIn: "放大", zoomOut: "缩小", zoomFit: "显示整幅图", toDark: "切换到深色", toLight: "切换到浅色",
      keys: [["←", "→"], " 换头  ", ["↑", "↓"], " 换层（任何位置加 ", ["Shift"], " 亦可）；在图和词元中，方向键逐个移动；  ",
        ["+", "−", "0"], " 缩放  ", ["[", "]"], " 换句"],
      unknown: (count) => `${count} 个带点线的词元不在模型的词表里：模型看到的是 [UNK]。`,
      exact: (error) => `编号从 0 开始。每个权重与模型所得相差不超过 ${error} 个百分点。`,
      broken: "无法绘制本页：", old: "浏览器过旧（缺少 DecompressionStream）。",
    },
  };

  const state = {
    view: page.views[0], layer: 0, head: 0, scale: 0,
    pinned: { query: 0, key: -1 }, hover: null, overHead: -1,
    language: (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en",
  };
  const text = () => words[state.language];

  // ---- tokens as people can see them

  const visible = (token) => {
    const seen = (token.toWellFormed?.() ?? token)
      .replace(/[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]/g, "")
      .replace(/\n/g, "↵").replace(/\t/g, "⇥")
      .replace(/[\u0000-\u001f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)
      .replace(/[\u007f-\u009f\u2028\u2029]/g, "\ufffd");
    if (seen === "") return "∅";
    return /^\s+$/u.test(seen) ? "␣".repeat(Math.min(seen.length, 8)) : seen;
  };
  const upright = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff01-\uff60…]+$/u;
  const isolated = (label) => `\u2068${label}\u2069`;

  // ---- weights: number × step, stored key by key

  const unpack = async (packed) => {
    const letters = atob(packed);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  const decode = async (view, index) => {
    const planes = await unpack(view.packed[index]);
    const queries = view.tokens.length, keys = (view.keys ?? view.tokens).length, size = queries * keys;
    let numbers = planes;
    if (planes.length === 2 * size) {
      numbers = new Uint16Array(size);
      for (let i = 0; i < size; i++) numbers[i] = planes[i] | (planes[size + i] << 8);
    }
    const step = view.steps[index];
    const top = view.peaks[index] || 1;
    const shades = new Uint8Array(planes.length === 2 * size ? 65536 : 256);
    for (let i = 0; i < shades.length; i++) shades[i] = Math.round(255 * Math.sqrt(Math.min(1, (i * step) / top)));
    return { numbers, step, top, shades, queries, keys };
  };

  const headAt = (view, index) => {
    view.decoded ??= [];
    view.decoded[index] ??= decode(view, index).then((head) => ((view.ready ??= [])[index] = head));
    return view.decoded[index];
  };
  const index = () => state.layer * state.view.heads + state.head;
  const open = () => state.view.ready?.[index()];
  const weight = (head, query, key) => head.numbers[key * head.queries + query] * head.step;
  const vector = (head, { query, key }) =>
    Array.from({ length: query >= 0 ? head.keys : head.queries }, (_, i) => (query >= 0 ? weight(head, query, i) : weight(head, i, key)));

  const percent = (value) => {
    const digits = state.view.error < 5e-5 ? 2 : 1;
    const least = 0.5 * 10 ** -(digits + 2);
    if (value === 0 && digits === 1) return `<${(Math.ceil(1000 * state.view.error) / 10).toFixed(1)}%`;
    if (value > 0 && value < least) return `<${(10 ** -digits).toFixed(digits)}%`;
    return `${(100 * value).toFixed(value === 0 ? 0 : digits)}%`;
  };

  // A pixel lies half-way between the mean and the darkest shade it covers: a thin line stays visible in a
  // small map and an even grey stays grey.
  const pool = (head, width, height) => {
    const { numbers, shades, queries, keys } = head;
    const shaded = new Uint8Array(width * height);
    const column = (i) => Math.floor((i * keys) / width), row = (i) => Math.floor((i * queries) / height);
    for (let x = 0; x < width; x++) {
      const keyEnd = Math.max(column(x) + 1, column(x + 1));
      for (let y = 0; y < height; y++) {
        const queryStart = row(y), queryEnd = Math.max(queryStart + 1, row(y + 1));
        let most = 0, sum = 0;
        for (let key = column(x); key < keyEnd; key++)
          for (let i = key * queries + queryStart; i < key * queries + queryEnd; i++) {
            const shade = shades[numbers[i]];
            sum += shade;
            if (shade > most) most = shade;
          }
        shaded[y * width + x] = (most + sum / ((keyEnd - column(x)) * (queryEnd - queryStart))) / 2;
      }
    }
    return shaded;
  };

  // ---- colour: one hue, lightness even in OKLab, 0 is the surface itself

  const ramps = {
    light: { lightness: [1, 0.3], chroma: [0, 0.085, 0.15, 0.165, 0.12], hue: 264 },
    dark: { lightness: [0.215, 0.95], chroma: [0.025, 0.1, 0.145, 0.12, 0.045], hue: 262 },
  };
  const fromOklch = (lightness, chroma, hue) => {
    const a = chroma * Math.cos((hue * Math.PI) / 180), b = chroma * Math.sin((hue * Math.PI) / 180);
    const [l, m, s] = [
      lightness + 0.3963377774 * a + 0.2158037573 * b,
      lightness - 0.1055613458 * a - 0.0638541728 * b,
      lightness - 0.0894841775 * a - 1.291485548 * b,
    ].map((x) => x ** 3);
    return [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ].map((x) => {
      const clear = Math.min(1, Math.max(0, x));
      return Math.round(255 * (clear <= 0.0031308 ? 12.92 * clear : 1.055 * clear ** (1 / 2.4) - 0.055));
    });
  };
  let colour = null;
  const mix = () => {
    const style = getComputedStyle(root);
    const named = Object.fromEntries(["surface", "ink", "quiet", "line", "pick"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
    const { lightness, chroma, hue } = ramps[root.dataset.theme];
    const shades = Array.from({ length: 256 }, (_, i) => {
      const t = i / 255, place = t * (chroma.length - 1), low = Math.min(Math.floor(place), chroma.length - 2);
      const saturation = chroma[low] + (chroma[low + 1] - chroma[low]) * (place - low);
      return fromOklch(lightness[0] + (lightness[1] - lightness[0]) * t, saturation, hue);
    });
    shades[0] = [1, 3, 5].map((i) => parseInt(named.surface.slice(i, i + 2), 16));
    const bytes = new Uint8ClampedArray(1024);
    shades.forEach((shade, i) => bytes.set([...shade, 255], 4 * i));
    const dark = root.dataset.theme === "dark";
    colour = {
      ...named, pixels: new Uint32Array(bytes.buffer), css: shades.map((shade) => `rgb(${shade.join(" ")})`),
      on: (i) => ((dark ? i > 140 : i < 128) ? "#14161c" : "#ffffff"),
    };
  };
  const picture = (shaded, width, height) => {
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < shaded.length; i++) pixels[i] = colour.pixels[shaded[i]];
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  };

  const ratio = () => window.devicePixelRatio || 1;
  const rem = () => parseFloat(getComputedStyle(root).fontSize);
  const family = getComputedStyle(document.body).fontFamily;
  const resize = (canvas, width, height) => {
    const r = ratio();
    canvas.width = Math.round(width * r);
    canvas.height = Math.round(height * r);
    canvas.style.width = `${canvas.width / r}px`;
    canvas.style.height = `${canvas.height / r}px`;
    return canvas.getContext("2d");
  };

  // ---- all heads as small maps

  const grid = { canvas: at("heads"), cell: 0, left: 0, top: 0 };

  const layoutGrid = () => {
    const { layers, heads } = state.view, unit = rem(), room = at("grid").clientWidth;
    grid.left = Math.ceil(String(layers - 1).length * unit * 0.5 + unit * 0.75);
    grid.top = Math.ceil(unit * 1.3);
    grid.cell = Math.floor(Math.min(unit * 12, Math.max(unit * 1.5, (room - grid.left) / heads)));
    grid.gap = grid.cell > 2.6 * unit ? Math.round(unit * 0.32) : 2;
    grid.context = resize(grid.canvas, grid.left + heads * grid.cell, grid.top + layers * grid.cell);
    drawGrid();
  };

  const drawThumb = (i) => {
    const head = state.view.ready?.[i], { context, cell, gap } = grid, r = ratio();
    const x = Math.round((grid.left + (i % state.view.heads) * cell) * r);
    const y = Math.round((grid.top + Math.floor(i / state.view.heads) * cell) * r);
    const size = Math.round((cell - gap) * r), whole = Math.round(cell * r), line = Math.max(1, Math.round(r));
    context.clearRect(x - 2 * line, y - 2 * line, whole, whole);
    context.fillStyle = colour.surface;
    context.fillRect(x, y, size, size);
    if (head) {
      if (head.thumb?.size !== size) head.thumb = { size, shaded: pool(head, size, size) };
      context.drawImage(picture(head.thumb.shaded, size, size), x, y);
    }
    const chosen = i === index();
    context.strokeStyle = chosen ? colour.pick : i === state.overHead ? colour.quiet : colour.line;
    context.lineWidth = chosen ? 2 * line : line;
    const out = chosen ? line : line / 2;
    context.strokeRect(x - out, y - out, size + 2 * out, size + 2 * out);
  };

  const drawGrid = () => {
    const { context, canvas, cell, gap } = grid, { layers, heads } = state.view, r = ratio(), unit = rem();
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = `${unit * 0.75 * r}px ${family}`;
    context.textBaseline = "middle";
    const middle = (cell - gap) / 2;
    const stride = Math.ceil((unit * 1.5) / cell);
    for (let head = 0; head < heads; head += stride) {
      context.fillStyle = head === state.head ? colour.pick : colour.quiet;
      context.textAlign = "center";
      context.fillText(String(head), (grid.left + head * cell + middle) * r, unit * 0.6 * r);
    }
    for (let layer = 0; layer < layers; layer++) {
      context.fillStyle = layer === state.layer ? colour.pick : colour.quiet;
      context.textAlign = "right";
      context.fillText(String(layer), (grid.left - unit * 0.45) * r, (grid.top + layer * cell + middle) * r);
    }
    for (let i = 0; i < layers * heads; i++) if (i !== index()) drawThumb(i);
    drawThumb(index());
    canvas.setAttribute("aria-label", text().grid(state.view, state.layer, state.head));
  };

  const headUnder = (event) => {
    const box = grid.canvas.getBoundingClientRect();
    const head = Math.floor((event.clientX - box.left - grid.left) / grid.cell);
    const layer = Math.floor((event.clientY - box.top - grid.top) / grid.cell);
    const inside = head >= 0 && head < state.view.heads && layer >= 0 && layer < state.view.layers;
    return inside ? { layer, head } : null;
  };

  // ---- one head large; `scale` is device pixels per token, below 1 the map is pooled

  const map = { canvas: at("map"), scroll: at("scroll"), space: at("space") };

  const fitted = new Map();
  const shorten = (context, label, width) => {
    const name = `${context.font}|${Math.round(width)}|${label}`;
    if (fitted.has(name)) return fitted.get(name);
    let short = label;
    if (context.measureText(label).width > width) {
      const letters = Array.from(label);
      let low = 0, high = letters.length;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (context.measureText(`${letters.slice(0, middle).join("")}…`).width <= width) low = middle;
        else high = middle - 1;
      }
      short = `${letters.slice(0, low).join("")}…`;
    }
    if (fitted.size > 20000) fitted.clear();
    fitted.set(name, short);
    return short;
  };

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

  const drawLabels = ({ names, from, range, start, chosen, horizontal }, left, top) => {
    const { context, canvas } = map, r = ratio(), unit = rem(), scale = state.scale;
    const size = Math.min(unit * 0.82 * r, Math.max(unit * 0.66 * r, scale * 0.78));
    const stride = Math.max(1, Math.ceil((size * 1.2) / scale));
    const flat = horizontal && map.flat;
    const space = (horizontal ? (flat ? scale : top) : left) - 0.7 * unit * r;
    const length = horizontal ? canvas.width : canvas.height;
    const centreOf = (i) => {
      const centre = Math.round(start - from + (i + 0.5) * scale);
      return i * scale < from - 1 ? centre : Math.min(Math.max(centre, start + size * 0.5), Math.max(centre, length - size * 0.6));
    };
    const put = (i, picked) => {
      context.font = `${picked ? 600 : 400} ${size}px ${family}`;
      const short = shorten(context, names[i], space), label = isolated(short);
      const stacked = horizontal && !flat && upright.test(short);
      const centre = centreOf(i);
      if (centre < start - scale / 2 || centre > length + scale / 2) return;
      context.save();
      context.beginPath();
      if (horizontal) context.rect(left - size * 0.6, 0, canvas.width, top);
      else context.rect(0, top - size * 0.6, left, canvas.height);
      context.clip();
      context.translate(horizontal ? centre : left - 0.4 * unit * r, horizontal ? top - 0.4 * unit * r : centre);
      if (horizontal && !flat && !stacked) context.rotate(-Math.PI / 2);
      context.textBaseline = flat || stacked ? "alphabetic" : "middle";
      context.textAlign = flat || stacked ? "center" : horizontal ? "left" : "right";
      context.fillStyle = picked ? colour.pick : colour.ink;
      if (stacked) Array.from(short).reverse().forEach((letter, above) => context.fillText(letter, 0, -above * size * 1.08));
      else context.fillText(label, 0, 0);
      context.restore();
    };
    const apart = stride > 1 ? size * 1.1 : 0;
    let before = -Infinity;
    for (let i = Math.ceil(range[0] / stride) * stride; i < range[1]; i += stride) {
      const centre = centreOf(i);
      if (i === chosen || centre - before < apart || (chosen >= 0 && Math.abs(centre - centreOf(chosen)) < apart)) continue;
      put(i, false);
      before = centre;
    }
    if (chosen >= 0) put(chosen, true);
  };

  const cellUnder = (event) => {
    const box = map.canvas.getBoundingClientRect(), r = ratio(), { labels, targets } = state.view;
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const place = (position, margin, from, count) => {
      const i = Math.floor(((position - margin + from) * r) / state.scale);
      return position >= margin && i < count ? i : -1;
    };
    const key = place(x, map.left, map.scroll.scrollLeft, targets.length);
    const query = place(y, map.top, map.scroll.scrollTop, labels.length);
    const outside = (x >= map.left && key < 0) || (y >= map.top && query < 0);
    return outside || (key < 0 && query < 0) ? null : { query, key };
  };

  const zoom = (factor, event) => {
    const r = ratio(), before = state.scale;
    let scale = before * factor;
    scale = scale >= 1 ? (factor > 1 ? Math.ceil(scale) : Math.floor(scale)) : scale;
    state.scale = Math.max(map.fit, Math.min(64 * r, scale));
    if (factor === 0 || state.scale === before) state.scale = factor === 0 ? map.fit : state.scale;
    const box = map.canvas.getBoundingClientRect();
    const x = event ? event.clientX - box.left - map.left : (map.scroll.clientWidth - map.left) / 2;
    const y = event ? event.clientY - box.top - map.top : (map.scroll.clientHeight - map.top) / 2;
    const { scrollLeft, scrollTop } = map.scroll, grow = state.scale / before;
    placeMap();
    map.scroll.scrollTo((scrollLeft + x) * grow - x, (scrollTop + y) * grow - y);
    drawMap();
  };

  const reveal = ({ query, key }) => {
    const r = ratio(), size = state.scale / r, { scroll } = map;
    const into = (from, i, room) => (i < 0 ? from : Math.min(i * size, Math.max(from, (i + 1) * size - room)));
    scroll.scrollTo(
      into(scroll.scrollLeft, key, scroll.clientWidth - map.left), into(scroll.scrollTop, query, scroll.clientHeight - map.top));
  };

  const layout = (keep) => {
    layoutMap(keep);
    layoutGrid();
  };

  // ---- one row (or column) in words and bars

  const strongest = (values, most) =>
    values.map((value, i) => [value, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]).slice(0, most);

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
    const colourTokens = (list, names, chosen, shaded, pinned) =>
      [...list.children].forEach((element, i) => {
        const level = shaded ? shade(values[i]) : 0;
        element.style.backgroundColor = shaded ? colour.css[level] : "";
        element.style.color = shaded ? colour.on(level) : "";
        element.setAttribute("aria-selected", i === chosen);
        element.setAttribute("aria-label", shaded ? `${names[i]} ${percent(values[i])}` : names[i]);
        element.tabIndex = i === Math.max(0, pinned) ? 0 : -1;
      });
    const crossed = state.view.keys !== null, own = ({ query, key }) => (crossed || query >= 0 ? query : key);
    colourTokens(at("tokens"), labels, own(shown), !crossed || !isRow, own(state.pinned));
    if (crossed) colourTokens(at("keys-seen"), targets, shown.key, isRow, state.pinned.key);
    drawImage(values, isRow, shade);

    const best = strongest(values, 10), most = best[0][0] || 1;
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

  // The picture that the keys are parts of: what is not looked at is veiled.
  const drawImage = (values, isRow, shade) => {
    const { image } = state.view;
    if (!image) return;
    const canvas = at("image"), r = ratio(), room = at("keys-seen").parentElement.clientWidth;
    const scale = Math.max(1, Math.floor(Math.min((room * r) / image.width, (18 * rem() * r) / image.height)));
    const context = resize(canvas, (image.width * scale) / r, (image.height * scale) / r);
    if (!image.drawn) {
      const grey = new ImageData(image.width, image.height), letters = atob(image.pixels);
      for (let i = 0; i < letters.length; i++) grey.data.set([letters.charCodeAt(i), letters.charCodeAt(i), letters.charCodeAt(i), 255], 4 * i);
      image.drawn = make("canvas", { width: image.width, height: image.height });
      image.drawn.getContext("2d").putImageData(grey, 0, 0);
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(image.drawn, 0, 0, canvas.width, canvas.height);
    const width = canvas.width / image.columns, height = canvas.height / image.rows, shown = state.hover ?? state.pinned;
    for (let key = 0; key < image.rows * image.columns; key++) {
      const x = (key % image.columns) * width, y = Math.floor(key / image.columns) * height;
      const level = isRow ? shade(values[key]) / 255 : Number(key === shown.key);
      context.fillStyle = `rgb(8 10 40 / ${0.72 * (1 - level)})`;
      context.fillRect(x, y, width + 1, height + 1);
      context.fillStyle = `rgb(255 177 92 / ${0.42 * level})`;
      context.fillRect(x, y, width + 1, height + 1);
    }
    if (shown.key >= 0) {
      context.strokeStyle = colour.pick;
      context.lineWidth = Math.max(2, 2 * r);
      context.strokeRect((shown.key % image.columns) * width, Math.floor(shown.key / image.columns) * height, width, height);
    }
  };

  const resizeLegend = (head) => {
    const canvas = at("legend");
    canvas.width = 256; canvas.height = 1;
    const context = canvas.getContext("2d");
    for (let i = 0; i < 256; i++) {
      context.fillStyle = colour.css[Math.round(255 * Math.sqrt(i / 255))];
      context.fillRect(i, 0, 1, 1);
    }
    const top = `${Number((100 * head.top).toPrecision(2))}%`;
    at("top").textContent = head.top < 1 ? `≥ ${top}` : top;
    canvas.setAttribute("aria-label", text().legend(top));
  };

  const announce = (headToo) => {
    const head = open();
    if (!head) return;
    const { query, key } = state.pinned, { labels, targets } = state.view, seen = query >= 0 ? targets : labels;
    const list = strongest(vector(head, state.pinned), 5).map(([value, i]) => `${seen[i]} ${percent(value)}`).join(", ");
    const where = headToo ? `${text().layer(state.layer)}, ${text().head(state.head)}. ` : "";
    const cell = query >= 0 && key >= 0 ? `${text().cell(labels[query], targets[key], percent(weight(head, query, key)))}. ` : "";
    at("live").textContent = where + cell + (query >= 0 ? text().says(labels[query], list) : text().saysColumn(targets[key], list));
  };

  // ---- what changes what

  const point = (place) => {
    const before = state.hover;
    if (before?.query === place?.query && before?.key === place?.key) return;
    state.hover = place;
    drawMap();
    drawRow();
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
    drawMap();
    drawRow();
    announce(false);
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
    drawMap();
    drawRow();
    if (speak) announce(true);
  };

  const show = async (view) => {
    state.view = view;
    view.labels ??= view.tokens.map(visible);
    view.targets ??= view.keys?.map(visible) ?? view.labels;
    const word = view.labels.findIndex((label) => !/^[[<].*[\]>]$/.test(label));
    state.pinned = { query: view.query ?? Math.max(0, word), key: -1 };
    state.hover = null;
    at("sentence").replaceChildren(make("bdi", { textContent: view.title, title: view.title.slice(0, 2000) }));
    at("views").value = String(page.views.indexOf(view));
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
    [state.layer, state.head] = view.start;
    layout();
    explain();
    await choose(...view.start, false);
    root.dataset.first ??= Math.round(performance.now());
    const waiting = view.packed.map((_, i) => i);
    await Promise.all(Array.from({ length: 6 }, async () => {
      while (waiting.length && view === state.view) {
        const i = waiting.shift();
        await headAt(view, i);
        if (view === state.view) drawThumb(i);
      }
    }));
    if (view === state.view) {
      drawGrid();
      root.dataset.drawn = page.views.indexOf(view);
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
    name("in", t.zoomIn); name("out", t.zoomOut); name("fit", t.zoomFit);
    at("keys").replaceChildren(...t.keys.flatMap((part) =>
      typeof part === "string" ? [part] : part.flatMap((key, i) => [i ? " " : "", make("kbd", { textContent: key })])));
  };

  const redraw = () => {
    say();
    mix();
    explain();
    choose(state.layer, state.head, false);
    map.picture = null;
    drawMap();
    drawRow();
  };

  const moveSentence = (by) => {
    const next = page.views.indexOf(state.view) + by;
    if (next >= 0 && next < page.views.length) show(page.views[next]);
  };

  const move = (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!steps || event.target.matches("select")) return false;
    const [down, right] = steps, { query, key } = state.pinned, { labels, targets } = state.view;
    const within = (i, { length }) => Math.max(0, Math.min(length - 1, i));
    if (!event.shiftKey && map.scroll.contains(event.target)) {
      pin({ query: within((query < 0 ? key : query) + down, labels), key: within((key < 0 ? query : key) + right, targets) });
    } else if (!event.shiftKey && at("keys-seen").contains(event.target)) {
      const next = within(key + down + right, targets);
      pin({ query: -1, key: next });
      at("keys-seen").children[next].focus();
    } else if (!event.shiftKey && at("tokens").contains(event.target)) {
      const next = within((query >= 0 ? query : key) + down + right, labels);
      pin({ query: next, key: -1 });
      at("tokens").children[next].focus();
    } else choose(state.layer + down, state.head + right);
    return true;
  };

  const placeOf = (token) => {
    const i = Number(token.dataset.token);
    return at("keys-seen").contains(token) ? { query: -1, key: i } : { query: i, key: -1 };
  };

  const press = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "−": () => zoom(1 / 1.5), 0: () => zoom(0),
    "[": () => moveSentence(-1), "]": () => moveSentence(1),
    Escape: () => { point(null); if (state.pinned.query >= 0) pin({ query: state.pinned.query, key: -1 }); },
  };

  const listen = () => {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (move(event)) event.preventDefault();
      else if (Object.hasOwn(press, event.key) && !event.target.matches("select")) press[event.key]();
      else if ((event.key === "Enter" || event.key === " ") && event.target.matches(".token")) {
        pin(placeOf(event.target));
        event.preventDefault();
      }
    });
    grid.canvas.addEventListener("pointermove", (event) => {
      const under = headUnder(event), before = state.overHead;
      state.overHead = under ? under.layer * state.view.heads + under.head : -1;
      for (const i of [before, state.overHead]) if (i >= 0 && before !== state.overHead) drawThumb(i);
      if (before !== state.overHead) drawThumb(index());
    });
    grid.canvas.addEventListener("pointerleave", () => { state.overHead = -1; drawGrid(); });
    grid.canvas.addEventListener("click", (event) => { const under = headUnder(event); if (under) choose(under.layer, under.head); });

    let frame = 0;
    const soon = (draw) => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };
    map.scroll.addEventListener("scroll", () => soon(drawMap));
    map.canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") soon(() => point(cellUnder(event))); });
    map.canvas.addEventListener("pointerleave", () => soon(() => point(null)));
    map.canvas.addEventListener("click", (event) => { const under = cellUnder(event); if (under) pin(under); });
    map.scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, event);
    }, { passive: false });

    for (const list of [at("tokens"), at("keys-seen")]) {
      const tokenUnder = (event) => {
        const token = event.target.closest(".token");
        return token ? placeOf(token) : null;
      };
      list.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") point(tokenUnder(event)); });
      list.addEventListener("pointerleave", () => point(null));
      list.addEventListener("click", (event) => { const under = tokenUnder(event); if (under) pin(under); });
      list.addEventListener("focusin", (event) => {
        const under = tokenUnder(event);
        if (under && (under.query !== state.pinned.query || under.key !== state.pinned.key)) pin(under);
      });
    }
    const partUnder = (event) => {
      const box = at("image").getBoundingClientRect(), { rows, columns } = state.view.image;
      const part = (from, size, count) => Math.max(0, Math.min(count - 1, Math.floor((from / size) * count)));
      const row = part(event.clientY - box.top, box.height, rows), column = part(event.clientX - box.left, box.width, columns);
      return { query: state.pinned.query, key: row * columns + column };
    };
    at("image").addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") soon(() => point(partUnder(event))); });
    at("image").addEventListener("pointerleave", () => soon(() => point(null)));
    at("image").addEventListener("click", (event) => pin(partUnder(event)));

    at("layer-back").onclick = () => choose(state.layer - 1, state.head);
    at("layer-on").onclick = () => choose(state.layer + 1, state.head);
    at("head-back").onclick = () => choose(state.layer, state.head - 1);
    at("head-on").onclick = () => choose(state.layer, state.head + 1);
    at("in").onclick = () => zoom(1.5);
    at("out").onclick = () => zoom(1 / 1.5);
    at("fit").onclick = () => zoom(0);
    at("views").onchange = (event) => show(page.views[Number(event.target.value)]);
    at("language").onclick = () => { state.language = state.language === "en" ? "zh" : "en"; redraw(); };
    at("theme").onclick = () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; root.dataset.kept = ""; redraw(); };
    const prefersDark = matchMedia("(prefers-color-scheme: dark)");
    prefersDark.addEventListener("change", () => {
      if (!("kept" in root.dataset)) { root.dataset.theme = prefersDark.matches ? "dark" : "light"; redraw(); }
    });
    let resized = 0;
    window.addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(() => { layout(true); drawRow(); }); });
  };

  const begin = async () => {
    root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    if (!("DecompressionStream" in window)) throw new Error(text().old);
    at("title").textContent = visible(page.title);
    at("subtitle").textContent = page.subtitle && visible(page.subtitle);
    at("choose").hidden = page.views.length < 2;
    at("views").append(...page.views.map((view, i) => make("option", { value: String(i), textContent: `${i + 1}. ${visible(view.title.slice(0, 80))}` })));
    say();
    mix();
    listen();
    await show(state.view);
  };

  begin().catch((error) => {
    at("broken").textContent = text().broken + error.message;
    at("broken").hidden = false;
    throw error;
  });
})();
