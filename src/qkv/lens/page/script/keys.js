// The keyboard.

const moveSentence = (by) => {
  const next = page.views.indexOf(wholeOf(state.view)) + by;
  if (next >= 0 && next < page.views.length) show(page.views[next]);
};

const move = (event) => {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.target.matches("select, input")) return false;
  if (at("tabs").contains(event.target) && !event.shiftKey) return turnTab(event.key);
  if (!event.shiftKey && event.target.matches(".stage") && active().press(event.key)) return true;
  if (!steps || !active().heads) return false;
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

const nearer = (factor) => () => { if (state.tab === "map") zoom(factor); };
const press = {
  "+": nearer(1.5), "=": nearer(1.5), "-": nearer(1 / 1.5), "−": nearer(1 / 1.5), 0: nearer(0),
  "[": () => moveSentence(-1), "]": () => moveSentence(1),
  Escape: () => { point(null); if (state.pinned.query >= 0) pin({ query: state.pinned.query, key: -1 }); },
};
