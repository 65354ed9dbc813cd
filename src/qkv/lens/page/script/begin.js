// The beginning.

const offer = () => {
  at("choose").hidden = page.views.length < 2;
  at("views").replaceChildren(...page.views.map((view, i) => make("option", { value: String(i), textContent: `${i + 1}. ${visible(view.title.slice(0, 80))}` })));
};

const begin = async () => {
  root.dataset.theme ??= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  if (!("DecompressionStream" in window)) throw new Error(text().old);
  at("subtitle").textContent = page.subtitle && visible(page.subtitle);
  await unpackImages(page.views);
  offer();
  say();
  mix();
  listen();
  if (state.view.image) state.tab = "over";
  await show(state.view);
};

const broken = (error) => {
  at("broken").textContent = text().broken + error.message;
  at("broken").hidden = false;
  throw error;
};
