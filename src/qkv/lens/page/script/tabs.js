// Each tab shows one view of what is open. A view is told in one file, an object with
//   name, words   its name, and what it says in English and Chinese (`tab` is its title)
//   there(view)   whether the open sentence has what it shows
//   enter()       what is new when the tab or another sentence opens; layout() what the window's size changes
//   draw()        from the state to the screen
//   ofTokens      whether it shows tokens as the model has them, never merged to words
//   heads         whether it shows the one head that is open; beside, whether the small maps of all stand beside it
//   all           whether it draws all heads itself
//   pictures()    what can be exported: { name, width, height, paint(context) }, in CSS pixels
//   press(key)    what a key does to it, where it does something

const tabs = [];
const tab = (view) => {
  tabs.push(Object.defineProperty(view, "text", { get: () => view.words[state.language] }));
  view.section = at(`panel-${view.name}`) ?? make("section", { className: "view", id: `panel-${view.name}` });
  if (!view.section.isConnected) at("panel").append(view.section);
  return view;
};
const active = () => tabs.find(({ name }) => name === state.tab);
const drawView = () => active().draw();

const markTabs = () => {
  at("merge").hidden = !mergeable(state.view) || Boolean(active().ofTokens);
  for (const button of at("tabs").children) {
    button.setAttribute("aria-selected", button.dataset.name === state.tab);
    button.tabIndex = button.dataset.name === state.tab ? 0 : -1;
  }
};

const openTab = (name, focus = false) => {
  state.tab = name;
  state.hover = null;
  Object.assign(at("panel").dataset, { tab: name, beside: active().beside });
  at("panel").setAttribute("aria-labelledby", `tab-${name}`);
  for (const one of tabs) one.section.hidden = one.name !== name;
  // There is nothing to choose of one head.
  const one = state.view.layers * state.view.heads === 1;
  at("steppers").hidden = !active().heads || one;
  at("heads-name").parentElement.hidden = one;
  markTabs();
  if (focus) at(`tab-${name}`).focus();
  active().enter?.();
  layout();
  drawView();
  offerExport();
};

const layTabs = () => {
  const there = tabs.filter((one) => one.there(state.view));
  at("tabs").replaceChildren(...there.map(({ name, text }) => {
    const button = make("button", { type: "button", id: `tab-${name}`, textContent: text.tab, onclick: () => openTab(name) });
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", "panel");
    button.dataset.name = name;
    return button;
  }));
  at("tabs").hidden = there.length < 2;
  at("merge").setAttribute("aria-pressed", state.merged);
  markTabs();
  offerExport();
};
const tabOf = (view) => (active().there(view) ? state.tab : "map");

const turnTab = (key) => {
  const names = [...at("tabs").children].map(({ dataset }) => dataset.name), here = names.indexOf(state.tab);
  const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: names.length - 1 }[key];
  if (next === undefined) return false;
  openTab(names[(next + names.length) % names.length], true);
  return true;
};
