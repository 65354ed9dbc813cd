// Tokens merged to words: a view like any other, whose weights are the sum over a key's parts and the mean over a query's.

const joined = (tokens, ranges) => {
  const groups = [];
  let next = 0;
  for (const [start, stop] of ranges) {
    while (next < start) groups.push([next, ++next]);
    groups.push([start, (next = stop)]);
  }
  while (next < tokens.length) groups.push([next, ++next]);
  const names = groups.map(([start, stop]) =>
    tokens.slice(start, stop).map((token, i) => (i ? token.replace(/^##/, "") : token)).join(""));
  return { groups, names };
};

const mergedHead = (head, queryGroups, keyGroups) => {
  const queries = queryGroups.length, keys = keyGroups.length, step = 1 / 65535;
  const numbers = new Uint16Array(queries * keys);
  keyGroups.forEach(([keyStart, keyStop], key) => queryGroups.forEach(([start, stop], query) => {
    let sum = 0;
    for (let k = keyStart; k < keyStop; k++) for (let q = start; q < stop; q++) sum += weight(head, q, k);
    numbers[key * queries + query] = Math.min(65535, Math.round(sum / (stop - start) / step));
  }));
  return withShades({ numbers, step, top: head.top, queries, keys }, 65536);
};

const mergeable = (view) => view.words.length + view.keyWords.length > 0;

const merged = (view) => {
  if (view.merged) return view.merged;
  const own = joined(view.tokens, view.words), seen = view.keys === null ? own : joined(view.keys, view.keyWords);
  const wordOf = (token) => own.groups.findIndex(([start, stop]) => start <= token && token < stop);
  const longest = Math.max(...seen.groups.map(([start, stop]) => stop - start));
  view.merged = {
    ...view, original: view, groups: own.groups, keyGroups: seen.groups, ready: undefined, decoded: undefined,
    labels: undefined, targets: undefined, tokens: own.names, keys: view.keys && seen.names,
    unknown: [...new Set(view.unknown.map(wordOf))], query: view.query === null ? null : wordOf(view.query),
    error: view.error * longest + 1e-5,
    head: (i) => headAt(view, i).then((head) => mergedHead(head, own.groups, seen.groups)),
  };
  return view.merged;
};
const wholeOf = (view) => view.original ?? view;
const seenAs = (view) => (state.merged && mergeable(view) ? merged(view) : view);
