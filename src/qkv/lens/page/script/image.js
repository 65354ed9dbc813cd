// The picture that the keys are parts of: what is not looked at is veiled.

const drawImage = () => {
  const { image } = state.view;
  if (!image) return;
  const canvas = at("image"), r = ratio(), room = at("keys-seen").parentElement.clientWidth;
  const fitting = Math.min((room * r) / image.width, (18 * rem() * r) / image.height);
  const scale = fitting > 1 ? Math.floor(fitting) : fitting;
  const context = resize(canvas, (image.width * scale) / r, (image.height * scale) / r);
  paintImage(context, [0, 0, canvas.width, canvas.height], open(), state.hover ?? state.pinned, Math.max(2, 2 * r));
};

// Every pixel as 0xrrggbb, from how each differs from the one to its left.
const unpackImages = (views) => Promise.all(views.filter(({ image }) => image).map(async ({ image }) => {
  const bytes = await unpack(image.pixels), deep = image.colours ? 3 : 1;
  for (let i = 0; i < bytes.length; i++) if (i % (image.width * deep) >= deep) bytes[i] += bytes[i - deep];
  image.shades = Uint32Array.from({ length: image.width * image.height }, (_, i) =>
    image.colours ? (bytes[3 * i] << 16) | (bytes[3 * i + 1] << 8) | bytes[3 * i + 2] : bytes[i] * 0x10101);
}));

const bare = (image) => {
  if (!image.drawn) {
    const data = new ImageData(image.width, image.height);
    image.shades.forEach((pixel, i) => data.data.set([pixel >> 16, (pixel >> 8) & 255, pixel & 255, 255], 4 * i));
    image.drawn = make("canvas", { width: image.width, height: image.height });
    image.drawn.getContext("2d").putImageData(data, 0, 0);
  }
  return image.drawn;
};

// Which part of the picture a key is, and which key a part is: before the parts may stand what is none.
const partOf = (key) => (key >= state.view.image.before ? key - state.view.image.before : -1);
const keyOf = (part) => part + state.view.image.before;

// How much each part is looked at, 0 … 1: by a query, or all queries by their weight on one key.
const lightOf = (image, head, { query, key }) => {
  const parts = Array.from({ length: image.rows * image.columns }, (_, part) => keyOf(part));
  return parts.map((i) => (query >= 0 && head ? Math.sqrt(Math.min(1, weight(head, query, i) / head.top)) : Number(i === key)));
};

// What is not looked at is darkened, what is, warmed: as one colour and its share, for a level of 0 … 1.
const VEILS = [[8, 10, 40, 0.72], [255, 177, 92, 0.42]];
const veilOf = (level) => {
  const [dark, warm] = [VEILS[0][3] * (1 - level), VEILS[1][3] * level], share = 1 - (1 - dark) * (1 - warm);
  return [...[0, 1, 2].map((i) => (VEILS[0][i] * dark * (1 - warm) + VEILS[1][i] * warm) / (share || 1)), share];
};

// The colour of each part: the mean of its pixels.
const meansOf = (image) => {
  if (image.means) return image.means;
  const sums = Array.from({ length: image.rows * image.columns }, () => [0, 0, 0, 0]);
  image.shades.forEach((pixel, i) => {
    const row = Math.floor((Math.floor(i / image.width) * image.rows) / image.height);
    const sum = sums[row * image.columns + Math.floor(((i % image.width) * image.columns) / image.width)];
    [pixel >> 16, (pixel >> 8) & 255, pixel & 255, 1].forEach((value, at) => { sum[at] += value; });
  });
  return (image.means = sums.map(([r, g, b, count]) => [r, g, b].map((sum) => sum / (count || 1))));
};

// `small` pictures are of parts alone where they are drawn as shapes: many would have too many pixels.
const paintImage = (context, [x, y, wide, high], head, shown, line, small = false) => {
  const { image } = state.view, light = lightOf(image, head, shown), hex = (number) => `#${number.toString(16).padStart(6, "0")}`;
  const width = wide / image.columns, height = high / image.rows;
  const boxOf = (part) => [x + (part % image.columns) * width, y + Math.floor(part / image.columns) * height, width, height];
  if (context.cells && small) {
    const mixed = light.map((level, part) => {
      const [r, g, b, share] = veilOf(level);
      return [r, g, b].reduce((sum, veil, i) => sum * 256 + Math.round(meansOf(image)[part][i] * (1 - share) + veil * share), 0);
    });
    context.cells(mixed, image.columns, image.rows, [x, y, wide, high], hex);
  } else if (context.cells) {
    context.cells(image.shades, image.width, image.height, [x, y, wide, high], hex);
    light.forEach((level, part) => {
      const [r, g, b, share] = veilOf(level);
      context.globalAlpha = share;
      context.fillStyle = `rgb(${[r, g, b].map(Math.round)})`;
      context.fillRect(...boxOf(part));
    });
    context.globalAlpha = 1;
  } else {
    const veil = new ImageData(image.columns, image.rows), canvas = make("canvas", { width: image.columns, height: image.rows });
    light.forEach((level, part) => {
      const [r, g, b, share] = veilOf(level);
      veil.data.set([r, g, b, 255 * share], 4 * part);
    });
    canvas.getContext("2d").putImageData(veil, 0, 0);
    context.imageSmoothingEnabled = wide < image.width;
    context.drawImage(bare(image), x, y, wide, high);
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, x, y, wide, high);
  }
  const frame = (part, shade) => {
    if (part < 0 || !line) return;
    context.strokeStyle = shade;
    context.lineWidth = line;
    context.strokeRect(...boxOf(part));
  };
  if (state.view.keys === null) frame(partOf(shown.query), "#ffffff");
  frame(partOf(shown.key), colour.pick);
};
