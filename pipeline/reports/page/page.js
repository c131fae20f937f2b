// Draws what comes into view, in the template of the colour scheme, and wires the switches of feature spaces.
const templates = JSON.parse(document.getElementById("templates").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 56rem)");
let printing = false; // paper is white
const template = () => templates[dark.matches && !printing ? "dark" : "light"];
// By default plotly offers to send a figure to its makers.
const config = () => ({
  responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", displayModeBar: narrow.matches ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
});
const spec = (element) => JSON.parse(document.getElementById(element.dataset.spec).textContent);
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // plotly reads markup
const MANY = 24, NARROW_MANY = 8; // groups: beyond this many, a legend helps nobody
function brief(names, letters = 22) { // the shortest that still tells them apart
  const cut = names.map((name) => name.length > letters ? `${name.slice(0, letters / 2 - 1)}…${name.slice(-letters / 2)}` : name);
  return new Set(cut).size === new Set(names).size ? cut : brief(names, letters + 4);
}

function draw(element) {
  const { data, layout } = spec(element);
  if (narrow.matches && data[0].type === "heatmap") { // names and scale would take all the room; a tap tells them
    layout.xaxis.showticklabels = layout.yaxis.showticklabels = data[0].showscale = false;
  } else if (narrow.matches && layout.yaxis?.ticktext) {
    layout.yaxis.ticktext = brief(layout.yaxis.ticktext);
  }
  // A finger scrolls the page, not the plot.
  Plotly.newPlot(element, data, { ...layout, template: template(), dragmode: narrow.matches ? false : "zoom" }, config());
}

function openSpace(figure) {
  const of = spec(figure), [element, panel] = [figure.querySelector(".plot"), figure.querySelector(".under")];
  const choice = (name) => figure.querySelector(`[data-choice=${name}]`).value;
  function show() {
    const { x, y } = of.projections[choice("projection")], colouring = of.colourings[choice("colouring")];
    const wanted = choice("class"), many = colouring.names.length > (narrow.matches ? NARROW_MANY : MANY);
    const rows = [...of.samples.keys()].filter((row) => wanted === "" || of.labels[row] === Number(wanted));
    const colour = (k) => colouring.colours ? colouring.colours[k] : template().layout.colorway[k];
    const groups = many ? [["", rows]] : colouring.names.map((name, k) => [name, rows.filter((row) => colouring.of[row] === k)]);
    const data = groups.filter(([, members]) => members.length).map(([name, members]) => ({
      type: "scattergl", mode: "markers", name: plain(name), customdata: members,
      x: members.map((row) => x[row]), y: members.map((row) => y[row]),
      text: members.map((row) => `${plain(of.samples[row])}<br>${plain(of.classes[of.labels[row]])}`), hoverinfo: "text",
      marker: { size: rows.length > 5000 ? 4 : 7, line: { width: rows.length > 5000 ? 0 : 0.5, color: "gray" }, opacity: 0.75, color: members.map((row) => colour(colouring.of[row])), symbol: members.map((row) => colouring.symbols?.[colouring.of[row]] ?? "circle") },
    }));
    const axis = { showticklabels: false, zeroline: false };
    const layout = { template: template(), showlegend: !many, hovermode: "closest", xaxis: axis, yaxis: axis, dragmode: narrow.matches ? false : "pan", uirevision: choice("projection") };
    Plotly.react(element, data, layout, { ...config(), scrollZoom: !narrow.matches });
  }
  show();
  dark.addEventListener("change", show);
  figure.querySelectorAll("select").forEach((select) => select.addEventListener("change", show));
  element.on("plotly_hover", ({ points: [{ customdata: row }] }) => {
    const lines = [`sample ${of.samples[row]}`, `label: ${of.classes[of.labels[row]]}`, `prediction: ${of.classes[of.predicted[row]]}, ${(100 * of.probability[row]).toFixed(1)} %`];
    panel.replaceChildren(...lines.map((line) => Object.assign(document.createElement("p"), { textContent: line })));
    const source = of.thumbnails[of.samples[row]];
    if (source) panel.prepend(Object.assign(new Image(), { src: source, alt: `a frame of ${of.samples[row]}` }));
  });
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) show(target);
  }
}, { rootMargin: "600px" });
const waiting = new Set(document.querySelectorAll("figure.space, figure:not(.space) > .plot"));
function show(target) {
  if (!waiting.delete(target)) return;
  seen.unobserve(target);
  target.matches(".space") ? openSpace(target) : draw(target);
}
waiting.forEach((element) => seen.observe(element));
const recolour = () => document.querySelectorAll(".js-plotly-plot").forEach((element) => Plotly.relayout(element, { template: template() }));
dark.addEventListener("change", recolour);
addEventListener("beforeprint", () => { printing = true; [...waiting].forEach(show); recolour(); });
addEventListener("afterprint", () => { printing = false; recolour(); });

const contents = document.getElementById("contents");
const fold = () => { contents.open = !narrow.matches; };
fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", (event) => { if (narrow.matches && event.target.matches("a")) contents.open = false; });
