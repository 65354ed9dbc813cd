// Pictures on canvases, sharp at every pixel ratio.

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

const picture = (shaded, width, height) => {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < shaded.length; i++) pixels[i] = colour.pixels[shaded[i]];
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
};

// A head as width × height cells, in a box of a canvas or of a drawing in SVG. The last few are kept as pictures.
const pictures = new Map();
const paintCells = (context, head, width, height, box) => {
  if (context.cells) return context.cells(pool(head, width, height), width, height, box, (shade) => colour.css[shade]);
  let kept = pictures.get(head);
  if (kept?.width !== width || kept.height !== height || kept.colour !== colour) {
    kept = { width, height, colour, image: picture(pool(head, width, height), width, height) };
    if (pictures.size > 6) pictures.delete(pictures.keys().next().value);
    pictures.set(head, kept);
  }
  context.imageSmoothingEnabled = false;
  context.drawImage(kept.image, ...box);
};

const ratio = () => window.devicePixelRatio || 1;
const rem = () => parseFloat(getComputedStyle(root).fontSize);
const family = getComputedStyle(document.body).fontFamily;
const resize = (canvas, width, height) => {
  const r = ratio(), across = Math.round(width * r), down = Math.round(height * r);
  if (canvas.width === across && canvas.height === down) return canvas.getContext("2d");
  canvas.width = across;
  canvas.height = down;
  canvas.style.width = `${canvas.width / r}px`;
  canvas.style.height = `${canvas.height / r}px`;
  return canvas.getContext("2d");
};

const ruler = make("canvas").getContext("2d");
const font = (size, weight = 400) => `${weight} ${size}px ${family}`;

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
