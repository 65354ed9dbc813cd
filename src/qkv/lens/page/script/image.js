// The picture that the keys are parts of: what is not looked at is veiled.

const drawImage = () => {
  const { image } = state.view;
  if (!image) return;
  const canvas = at("image"), r = ratio(), room = at("keys-seen").parentElement.clientWidth;
  const scale = Math.max(1, Math.floor(Math.min((room * r) / image.width, (18 * rem() * r) / image.height)));
  const context = resize(canvas, (image.width * scale) / r, (image.height * scale) / r);
  paintImage(context, canvas.width, canvas.height, Math.max(2, 2 * r));
};

const greyOf = (image) => (image.grey ??= Uint8Array.from(atob(image.pixels), (letter) => letter.charCodeAt(0)));

const paintImage = (context, wide, high, line) => {
  const { image } = state.view, head = open(), shown = state.hover ?? state.pinned;
  const grey = greyOf(image), isRow = shown.query >= 0;
  if (context.cells) context.cells(grey, image.width, image.height, [0, 0, wide, high], (shade) => `rgb(${shade},${shade},${shade})`);
  else {
    if (!image.drawn) {
      const data = new ImageData(image.width, image.height);
      grey.forEach((shade, i) => data.data.set([shade, shade, shade, 255], 4 * i));
      image.drawn = make("canvas", { width: image.width, height: image.height });
      image.drawn.getContext("2d").putImageData(data, 0, 0);
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(image.drawn, 0, 0, wide, high);
  }
  const width = wide / image.columns, height = high / image.rows;
  const levelOf = (key) => (isRow && head ? Math.sqrt(Math.min(1, weight(head, shown.query, key) / head.top)) : Number(key === shown.key));
  for (let key = 0; key < image.rows * image.columns; key++) {
    const box = [(key % image.columns) * width, Math.floor(key / image.columns) * height, width + 0.5, height + 0.5], level = levelOf(key);
    for (const [veil, share] of [["#080a28", 0.72 * (1 - level)], ["#ffb15c", 0.42 * level]]) {
      context.globalAlpha = share;
      context.fillStyle = veil;
      context.fillRect(...box);
    }
  }
  context.globalAlpha = 1;
  if (shown.key >= 0) {
    context.strokeStyle = colour.pick;
    context.lineWidth = line;
    context.strokeRect((shown.key % image.columns) * width, Math.floor(shown.key / image.columns) * height, width, height);
  }
};
