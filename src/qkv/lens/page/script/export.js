// Any view as a file: SVG, whose text is text and whose shapes are shapes, or PNG, at any size.

const exporting = {
  words: {
    en: { what: "Picture", width: "Width in pixels", save: (kind) => `Save as ${kind}`, heads: "All heads", map: "This head", image: "Image", view: "This view", done: (name, width, height) => `Saved ${name}, ${width} × ${height}` },
    zh: { what: "图片", width: "宽度（像素）", save: (kind) => `保存为 ${kind}`, heads: "全部注意力头", map: "此头", image: "图像", view: "此视图", done: (name, width, height) => `已保存 ${name}，${width} × ${height}` },
  },
  get text() { return exporting.words[state.language]; },
  largest: 16384,
};

const offerExport = () => {
  const t = exporting.text, names = active().pictures().map(({ name }) => name), chosen = at("export-what").value;
  at("export-what").replaceChildren(...names.map((name) => make("option", { value: name, textContent: t[name] ?? t.view })));
  at("export-what").hidden = names.length < 2;
  if (names.includes(chosen)) at("export-what").value = chosen;
  else if (names.includes("map")) at("export-what").value = "map";
  at("export-what").setAttribute("aria-label", t.what);
  at("export-width").setAttribute("aria-label", t.width);
  at("export-width").title = t.width;
  for (const kind of ["svg", "png"]) {
    at(`export-${kind}`).title = t.save(kind.toUpperCase());
    at(`export-${kind}`).setAttribute("aria-label", t.save(kind.toUpperCase()));
  }
};

const toBe = () => {
  const { width, height, ...rest } = active().pictures().find(({ name }) => name === at("export-what").value) ?? active().pictures()[0];
  const asked = Math.round(Number(at("export-width").value)) || Math.round(2 * width);
  const most = Math.min(exporting.largest, (exporting.largest * width) / height, Math.sqrt((2 ** 27 * width) / height));
  const across = Math.max(16, Math.min(Math.floor(most), asked));
  return { width, height, across, down: Math.max(1, Math.round((across * height) / width)), ...rest };
};

const backed = (context, width, height) => {
  context.fillStyle = colour.surface;
  context.fillRect(0, 0, width, height);
};

const save = async (kind) => {
  const { name, width, height, across, down, paint } = toBe();
  await Promise.all(state.view.packed.map((_, i) => (name === "map" ? null : headAt(state.view, i))));
  let blob;
  if (kind === "svg") {
    const drawing = new Drawing();
    backed(drawing, width, height);
    paint(drawing);
    blob = new Blob([drawing.text(width, height, across)], { type: "image/svg+xml" });
  } else {
    const canvas = make("canvas", { width: across, height: down }), context = canvas.getContext("2d");
    context.scale(across / width, down / height);
    backed(context, width, height);
    paint(context);
    blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  }
  const link = make("a", { href: URL.createObjectURL(blob), download: `qkv-${name}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  at("live").textContent = exporting.text.done(link.download, across, down);
};
