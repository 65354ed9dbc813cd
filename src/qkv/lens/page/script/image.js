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
