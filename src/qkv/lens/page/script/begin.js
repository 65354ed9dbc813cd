// The beginning.

const begin = async () => {
  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  if (!("DecompressionStream" in window)) throw new Error(text().old);
  at("title").textContent = visible(page.title);
  at("subtitle").textContent = page.subtitle && visible(page.subtitle);
  at("choose").hidden = page.views.length < 2;
  at("views").append(...page.views.map((view, i) => make("option", { value: String(i), textContent: `${i + 1}. ${visible(view.title.slice(0, 80))}` })));
  say();
  mix();
  listen();
  await show(state.view);
};
