// Weights: number × step, stored key by key.

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
  const head = { numbers, step: view.steps[index], top: view.peaks[index] || 1, queries, keys };
  return withShades(head, planes.length === 2 * size ? 65536 : 256);
};

// The shade of every number that can occur: the square root of its share of the head's top.
const withShades = (head, count) => {
  const shades = new Uint8Array(count);
  for (let i = 0; i < count; i++) shades[i] = Math.round(255 * Math.sqrt(Math.min(1, (i * head.step) / head.top)));
  return { ...head, shades };
};

// Where heads come from: here, what the page holds. A page that asks a server puts its own functions in. `moved` hears
// that another head or cell was opened.
const source = { head: (view, layer, head) => decode(view, layer * view.heads + head), moved() {} };

const headAt = (view, index) => {
  view.decoded ??= [];
  const ask = () => view.head?.(index) ?? source.head(view, Math.floor(index / view.heads), index % view.heads);
  view.decoded[index] ??= ask().then((head) => ((view.ready ??= [])[index] = head));
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
