// Wires the feature spaces, points to look around in. All else on the page is there without a script.
const narrow = matchMedia("(max-width: 56rem)");
const MANY = 24; // colours: beyond this many, a legend helps nobody
const NEAR = 12; // CSS pixels from a point to what points at it

function openSpace(figure) {
  const of = JSON.parse(document.getElementById(figure.dataset.spec).textContent);
  const [canvas, legend, panel] = ["canvas", ".legend", ".under"].map((selector) => figure.querySelector(selector));
  const ink = canvas.getContext("2d");
  const choice = (name) => figure.querySelector(`[data-choice=${name}]`).value;
  let view = { zoom: 1, x: 0, y: 0 }, pixels = [], rows = [], held = null; // pixels: x and y of each row

  function place() { // all of a projection fits while the zoom is 1, whatever class is chosen
    const { x, y } = of.projections[choice("projection")], { clientWidth: width, clientHeight: height } = canvas;
    const reach = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    const [[left, right], [bottom, top]] = [reach(x), reach(y)];
    const at = (value, low, high, room) => 16 + (value - low) / (high - low || 1) * (room - 32);
    pixels = of.samples.map((_, row) => [
      view.x + view.zoom * at(x[row], left, right, width), view.y + view.zoom * (height - at(y[row], bottom, top, height)),
    ]);
  }
  function draw() {
    const colouring = of.colourings[choice("colouring")], wanted = choice("class"), dots = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * dots, canvas.clientHeight * dots];
    ink.scale(dots, dots);
    place();
    rows = [...of.samples.keys()].filter((row) => wanted === "" || of.labels[row] === Number(wanted));
    canvas.dataset.points = rows.length;
    const size = rows.length > 5000 ? 3 : 7;
    ink.globalAlpha = 0.75;
    for (const row of rows) {
      const [x, y] = pixels[row];
      ink.fillStyle = colouring.colours[colouring.of[row]];
      ink.fillRect(x - size / 2, y - size / 2, size, size);
    }
    const shown = [...new Set(rows.map((row) => colouring.of[row]))].sort((one, other) => one - other);
    legend.replaceChildren(...(shown.length > MANY ? [] : shown).map((k) => {
      const entry = Object.assign(document.createElement("li"), { textContent: colouring.names[k] });
      entry.style.setProperty("--of", colouring.colours[k]);
      return entry;
    }));
  }
  function tell({ offsetX, offsetY }) {
    const far = (row) => Math.hypot(pixels[row][0] - offsetX, pixels[row][1] - offsetY);
    const row = rows.reduce((best, one) => best === -1 || far(one) < far(best) ? one : best, -1);
    if (row === -1 || far(row) > NEAR) return;
    const lines = [`sample ${of.samples[row]}`, `label: ${of.classes[of.labels[row]]}`, `prediction: ${of.classes[of.predicted[row]]}, ${(100 * of.probability[row]).toFixed(1)} %`];
    panel.replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
    const source = of.thumbnails[of.samples[row]];
    if (source) panel.prepend(Object.assign(new Image(), { src: source, alt: `a frame of ${of.samples[row]}` }));
  }
  function whole() { view = { zoom: 1, x: 0, y: 0 }; draw(); }

  canvas.addEventListener("pointerdown", (event) => { tell(event); held = event.pointerType === "mouse" ? event : null; }); // a finger scrolls the page
  canvas.addEventListener("pointermove", (event) => {
    if (!held || !event.buttons) return tell(event);
    view = { ...view, x: view.x + event.offsetX - held.offsetX, y: view.y + event.offsetY - held.offsetY };
    held = event;
    draw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const zoom = Math.max(1, view.zoom * 1.0015 ** -event.deltaY), by = zoom / view.zoom;
    view = zoom === 1 ? { zoom, x: 0, y: 0 } : { zoom, x: event.offsetX + by * (view.x - event.offsetX), y: event.offsetY + by * (view.y - event.offsetY) };
    draw();
  }, { passive: false });
  canvas.addEventListener("dblclick", whole);
  figure.querySelectorAll("select").forEach((select) => select.addEventListener("change", whole));
  new ResizeObserver(draw).observe(canvas);
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) { seen.unobserve(target); openSpace(target); }
  }
}, { rootMargin: "600px" });
document.querySelectorAll("figure.space").forEach((figure) => seen.observe(figure));

const contents = document.getElementById("contents");
const fold = () => { contents.open = !narrow.matches; };
fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", (event) => { if (narrow.matches && event.target.matches("a")) contents.open = false; });
