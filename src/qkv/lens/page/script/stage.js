// A canvas for a view, as wide as its section; of a picture taller than the window, what is scrolled to.
//
// The view gives `height(width)` and `paint(context, size)`, in CSS pixels, where size = { width, height, top, bottom }
// and only what lies between top and bottom is seen; `aim(spot)` and `pick(spot)` hear where the pointer is and taps.

let frame = 0;
const soon = (draw) => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };

const stage = (view) => {
  const canvas = make("canvas"), space = make("div", { className: "space" }, canvas);
  const scroll = make("div", { className: "scroll stage", tabIndex: 0 }, space);
  scroll.setAttribute("role", "application");
  const spot = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return { x: clientX - box.left, y: clientY - box.top + scroll.scrollTop };
  };
  scroll.addEventListener("scroll", () => soon(drawView));
  canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") soon(() => view.aim(spot(event))); });
  canvas.addEventListener("pointerleave", () => soon(() => view.aim(null)));
  canvas.addEventListener("click", (event) => view.pick(spot(event)));
  return {
    scroll,
    draw() {
      const r = ratio(), width = scroll.clientWidth, height = Math.ceil(view.height(width));
      const seen = Math.min(height, Math.max(20 * rem(), window.innerHeight - 10 * rem()));
      scroll.style.height = `${seen + 2}px`;
      space.style.height = `${height}px`;
      const context = resize(canvas, width, seen), top = scroll.scrollTop;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = colour.surface;
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.setTransform(r, 0, 0, r, 0, -top * r);
      view.paint(context, { width, height, top, bottom: top + seen });
      scroll.setAttribute("aria-label", view.text.says());
    },
    picture(name = view.name) {
      const width = scroll.clientWidth, height = Math.ceil(view.height(width));
      return { name, width, height, paint: (context) => view.paint(context, { width, height, top: 0, bottom: height }) };
    },
    reveal(from, to) {
      if (from < scroll.scrollTop) scroll.scrollTop = from;
      else if (to > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = to - scroll.clientHeight;
    },
  };
};
