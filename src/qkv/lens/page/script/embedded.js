// A page inside another: a server's or a notebook's. It is told what to show, and tells what is looked at.

const tell = (message) => parent.postMessage({ qkv: message }, "*");
source.moved = () => tell({ moved: { layer: state.layer, head: state.head, ...state.pinned } });

const turn = async ({ views, layer, head, language, theme, bare }) => {
  if (bare) root.dataset.bare = "";
  if (language) state.language = language;
  if (theme) root.dataset.theme = theme;
  root.dataset.kept = "";
  const began = "began" in root.dataset;
  if (views) {
    page.views = views;
    if (began) {
      await unpackImages(views);
      say();
      mix();
      offer();
      await show(views[0]);
    } else {
      root.dataset.began = "";
      state.view = views[0];
      await begin();
    }
  } else if (began) {
    if (language || theme) redraw();
    if (layer !== undefined && (layer !== state.layer || head !== state.head)) await choose(layer, head);
  }
};

addEventListener("message", ({ source: from, data }) => {
  if (from === parent && data?.qkv) turn(data.qkv).catch(broken);
});
if (page.views.length) {
  root.dataset.began = "";
  begin().catch(broken);
}
// Where there is no room for a page within the page, its frame is made as tall as it is.
new ResizeObserver(() => tell({ height: Math.ceil(document.body.getBoundingClientRect().height) })).observe(document.body);
tell({ ready: true });
