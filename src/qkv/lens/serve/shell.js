"use strict";
(() => {
  const given = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  const words = {
    en: {
      lang: "en", other: "中文", otherLang: "zh-Hans", dark: "Dark", light: "Light", toDark: "Switch to dark", toLight: "Switch to light",
      compare: "Compare", together: "Same head", copy: "Copy link", copied: "Copied",
      compareTitle: "A second sentence or model beside the first", togetherTitle: "Both sides show the same layer and head",
      copyTitle: "The link shows the same to whoever uses this server",
      model: "Model", placeholder: "Type a sentence", frame: "Attention", reading: "Reading…",
      done: (tokens, time) => `${tokens} tokens · ${time} ms`, gone: "The server does not answer. Was it stopped?",
      locked: "This browser has no token any more: open the link that qkv printed last.",
      example: "The cat chased the mouse because it was hungry.", tooLong: "The text is too long for a link.",
    },
    zh: {
      lang: "zh-Hans", other: "English", otherLang: "en", dark: "深色", light: "浅色", toDark: "切换到深色", toLight: "切换到浅色",
      compare: "对比", together: "同一头", copy: "复制链接", copied: "已复制",
      compareTitle: "并排查看另一个句子或模型", togetherTitle: "两侧显示同一层的同一头",
      copyTitle: "能访问本服务器的人打开链接，即可看到同样的画面",
      model: "模型", placeholder: "输入一个句子", frame: "注意力", reading: "读取中……",
      done: (tokens, time) => `${tokens} 个词元 · ${time} 毫秒`, gone: "服务器没有应答，是否已停止？",
      locked: "此浏览器的令牌已失效：请打开 qkv 最近给出的链接。",
      example: "猫追老鼠，因为它饿了。", tooLong: "文本太长，无法放进链接。",
    },
  };

  const QUIET = 90, LONGEST_LINK = 20000;
  const client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const state = {
    language: given.language ?? ((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en"),
    theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
    compare: false, together: true,
  };
  const text = () => words[state.language];
  const sides = [0, 1].map((number) => ({ number, model: given.models[0], text: "", spot: {}, kind: "", ready: false, waiting: null, asked: 0 }));
  const shown = () => sides.slice(0, state.compare ? 2 : 1);

  // ---- a side: what is asked, and the page that shows the answer

  const build = (side) => {
    side.select = make("select", {}, ...given.models.map((name) => make("option", { value: name, textContent: name })));
    side.area = make("textarea", { rows: 1, spellcheck: false, maxLength: 1000000, dir: "auto" });
    side.state = make("p", { className: "state" });
    side.state.setAttribute("role", "status");
    side.frame = make("iframe");
    side.frame.dataset.empty = "";
    side.box = make("section", { className: "side" }, make("div", { className: "ask" }, side.select, side.area), side.state, side.frame);
    side.select.hidden = given.models.length < 2;
    side.select.onchange = () => { side.model = side.select.value; read(side); };
    side.area.oninput = () => {
      side.text = side.area.value;
      clearTimeout(side.later);
      side.later = setTimeout(() => read(side), QUIET);
    };
    at("sides").append(side.box);
  };

  const post = (side, message) => side.frame.contentWindow.postMessage({ qkv: message }, location.origin);
  const send = (side, kind, message) => {
    side.waiting = { ...message, language: state.language, theme: state.theme, bare: true };
    if (side.kind !== kind) {
      Object.assign(side, { kind, ready: false });
      side.frame.style.removeProperty("--tall");
      side.frame.src = `/${kind}`;
    } else if (side.ready) flush(side);
  };
  const flush = (side) => {
    if (!side.waiting) return;
    delete side.frame.dataset.empty;
    post(side, side.waiting);
    side.waiting = null;
  };

  const read = async (side) => {
    clearTimeout(side.later);
    link();
    side.abort?.abort();
    const number = ++side.asked, begun = performance.now();
    if (!side.text.trim()) return wrong(side, "");
    side.abort = new AbortController();
    const slow = setTimeout(() => { side.state.textContent = text().reading; }, 300);
    try {
      const answer = await fetch("/api/read", {
        method: "POST", signal: side.abort.signal, headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: side.model, text: side.text.toWellFormed?.() ?? side.text, client: `${client}-${side.number}` }),
      });
      const found = await answer.json();
      if (number !== side.asked || answer.status === 409) return;
      if (!answer.ok) return wrong(side, answer.status === 401 ? text().locked : found.error);
      delete side.state.dataset.wrong;
      side.found = { tokens: (found.long ?? found.views[0]).tokens.length, time: Math.round(performance.now() - begun) };
      side.state.textContent = text().done(side.found.tokens, side.found.time);
      display(side, found);
    } catch (error) {
      if (error.name !== "AbortError" && number === side.asked) wrong(side, text().gone);
    } finally {
      clearTimeout(slow);
    }
  };
  const wrong = (side, what) => {
    side.state.dataset.wrong = "";
    side.state.textContent = what;
  };

  const display = (side, found) => {
    const { layer, head, query } = side.spot;
    if (found.long) return send(side, "long", { long: found.long, at: side.spot.scale ? side.spot : { layer: layer ?? 0, head: head ?? 0 } });
    for (const view of found.views) {
      if (layer < view.layers && head < view.heads) view.start = [layer, head];
      if (query >= 0 && query < view.tokens.length) view.query = query;
    }
    send(side, "frame", { views: found.views });
  };

  addEventListener("message", ({ source, origin, data }) => {
    const side = sides.find((one) => one.frame?.contentWindow === source);
    if (!side || origin !== location.origin || !data?.qkv) return;
    const { ready, moved, height } = data.qkv;
    if (height) side.frame.style.setProperty("--tall", `${height}px`);
    if (ready) {
      side.ready = true;
      flush(side);
    }
    if (moved) {
      const turned = moved.layer !== side.spot.layer || moved.head !== side.spot.head;
      side.spot = moved;
      link();
      if (turned && state.together) shown().filter((other) => other !== side && other.ready).forEach((other) => post(other, { layer: moved.layer, head: moved.head }));
    }
  });

  // ---- a link reproduces what is seen

  const spotNames = ["layer", "head", "query", "key", "x", "y", "scale"];
  const link = () => {
    const parts = new URLSearchParams();
    for (const side of shown()) {
      const end = side.number ? "2" : "";
      if (given.models.length > 1) parts.set(`model${end}`, side.model);
      if (side.text.length <= LONGEST_LINK) parts.set(`text${end}`, side.text);
      const spot = spotNames.filter((name) => Number.isFinite(side.spot[name])).map((name) => `${name}:${Number(side.spot[name].toPrecision(7))}`);
      if (spot.length) parts.set(`at${end}`, spot.join(","));
    }
    if (!state.together) parts.set("apart", "");
    state.link = `#${parts}`;
    history.replaceState(null, "", state.link);
  };
  const follow = () => {
    const parts = new URLSearchParams(location.hash.slice(1));
    state.compare = parts.has("text2");
    state.together = !parts.has("apart");
    for (const side of sides) {
      const end = side.number ? "2" : "", model = parts.get(`model${end}`);
      if (given.models.includes(model)) side.model = model;
      side.text = parts.get(`text${end}`) ?? "";
      const spot = (parts.get(`at${end}`) ?? "").split(",").map((part) => part.split(":")).filter(([name, value]) => spotNames.includes(name) && Number.isFinite(Number(value)));
      side.spot = Object.fromEntries(spot.map(([name, value]) => [name, Number(value)]));
    }
  };

  const arrange = () => {
    for (const side of sides) {
      side.box.hidden = !shown().includes(side);
      side.select.value = side.model;
      if (side.area.value !== side.text) side.area.value = side.text;
    }
    say();
  };

  const say = () => {
    const t = text(), dark = state.theme === "dark";
    root.lang = t.lang;
    root.dataset.theme = state.theme;
    const name = (id, label, title) => { at(id).textContent = label; at(id).title = title; at(id).setAttribute("aria-label", `${label}: ${title}`); };
    name("compare", t.compare, t.compareTitle);
    name("together", t.together, t.togetherTitle);
    name("copy", t.copy, t.copyTitle);
    name("theme", dark ? t.light : t.dark, dark ? t.toLight : t.toDark);
    Object.assign(at("language"), { textContent: t.other, lang: t.otherLang });
    at("compare").setAttribute("aria-pressed", state.compare);
    at("together").setAttribute("aria-pressed", state.together);
    at("together").hidden = !state.compare;
    for (const side of sides) {
      side.area.placeholder = t.placeholder;
      side.area.setAttribute("aria-label", t.placeholder);
      side.select.setAttribute("aria-label", t.model);
      side.frame.title = t.frame;
      if (side.found && !("wrong" in side.state.dataset)) side.state.textContent = t.done(side.found.tokens, side.found.time);
      if (side.ready) post(side, { language: state.language, theme: state.theme });
    }
  };

  at("compare").onclick = () => {
    state.compare = !state.compare;
    const [first, second] = sides;
    if (state.compare && !second.text) {
      second.text = first.text;
      second.model = given.models.find((name) => name !== first.model) ?? first.model;
      second.spot = { layer: first.spot.layer, head: first.spot.head };
    }
    arrange();
    link();
    if (state.compare) read(second);
  };
  at("together").onclick = () => { state.together = !state.together; say(); link(); };
  at("copy").onclick = async () => {
    if (shown().some((side) => side.text.length > LONGEST_LINK)) at("live").textContent = at("copy").textContent = text().tooLong;
    else {
      await navigator.clipboard?.writeText(location.origin + location.pathname + state.link).catch(() => {});
      at("live").textContent = at("copy").textContent = text().copied;
    }
    setTimeout(say, 1500);
  };
  at("language").onclick = () => { state.language = state.language === "en" ? "zh" : "en"; say(); };
  at("theme").onclick = () => { state.theme = state.theme === "dark" ? "light" : "dark"; say(); };
  addEventListener("hashchange", () => {
    if (location.hash === state.link) return;
    follow();
    arrange();
    shown().forEach(read);
  });

  sides.forEach(build);
  follow();
  if (!sides[0].text) {
    sides[0].text = given.texts[0] ?? text().example;
    if (given.texts.length > 1) Object.assign(sides[1], { text: given.texts[1] });
    state.compare ||= given.texts.length > 1;
  }
  arrange();
  shown().forEach(read);
})();
