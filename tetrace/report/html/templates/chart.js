// plotly, unpacked from the page itself, and charts that are drawn when they come near the screen.

const charts = new Set();
const NARROW = 620;
let paper = 0;  // width of charts on paper, 0 on a screen

async function unpacked() {
  const holder = document.getElementById("plotly");
  const binary = atob(holder.textContent);
  const bytes = new Uint8Array(binary.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = binary.charCodeAt(place);
  const unzip = new DecompressionStream("gzip"), writer = unzip.writable.getWriter();
  writer.write(bytes);
  writer.close();
  const script = document.createElement("script");
  script.textContent = await new Response(unzip.readable).text();
  document.head.append(script);
  script.remove();
  holder.remove();
  return window.Plotly;
}

let plotly = null;
function plotlyOnce() {
  // After the first screen stands: unpacking takes longer than all else.
  plotly ??= new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0))).then(unpacked);
  return plotly;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function themed(layout, width) {
  const line = color("line"), muted = color("muted"), text = color("text"), narrow = width < NARROW;
  const axis = (own) => own && {
    gridcolor: line, linecolor: line, zerolinecolor: line, ...own, tickfont: { color: muted, size: narrow ? 10 : 11.5 },
    title: { ...own.title, font: { color: muted, size: 12 }, standoff: 8 },
  };
  const axes = Object.fromEntries(Object.entries(layout).filter(([name]) => /^[xy]axis/.test(name)).map(([name, own]) => [name, axis(own)]));
  return {
    dragmode: false, ...layout, ...axes, annotations: (layout.annotations || []).map((one) => ({ ...one, bgcolor: color("page"), font: { ...one.font, color: text } })), autosize: true, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: color("sans"), color: text, size: 12 },
    hoverlabel: { bgcolor: color("page"), bordercolor: line, font: { color: text, family: color("sans"), size: 12 }, namelength: -1, align: "left" },
  };
}

// Long names beside bars leave a narrow screen no room for the bars.
function withShortNames(layout, data, width) {
  const sideways = data.some((trace) => trace.orientation === "h" || trace.type === "heatmap");
  if (width >= NARROW || !sideways) return layout;
  // Bars at numbered places have their names beside them.
  const names = layout.yaxis.tickvals ?? [...new Set(data.flatMap((trace) => trace.y))];
  const short = (layout.yaxis.ticktext ?? names).map((name) => (plain(name).length > 20 ? `${name.slice(0, 18)}…` : name));
  return { ...layout, yaxis: { ...layout.yaxis, tickmode: "array", tickvals: names, ticktext: short } };
}

// Beside a map the colour bar would leave a narrow screen no room for the map: it lies above.
function withColorsAbove(data, width) {
  if (width >= NARROW) return data;
  return data.map((trace) => trace.colorbar ? { ...trace, colorbar: {
    ...trace.colorbar, orientation: "h", len: 0.84, x: 0, xanchor: "left", y: 1, yanchor: "bottom", tickfont: { size: 10 }, title: { ...trace.colorbar.title, side: "top" },
  } } : trace);
}

class Chart {
  constructor(spec, host, said) {
    this.spec = spec;
    this.host = host;
    this.drawn = false;
    host.classList.add("plot");
    host.style.minHeight = `${spec.layout.height}px`;
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", said);
    charts.add(this);
    seen.observe(host);
  }

  layout() {
    const width = paper || this.host.clientWidth || 800;
    const made = themed(withShortNames(this.spec.layout, this.spec.data, width), width);
    return paper ? { ...made, autosize: false, width: paper } : made;
  }

  data() {
    return withColorsAbove(this.spec.data, paper || this.host.clientWidth || 800);
  }

  async draw() {
    if (this.drawn || !this.host.isConnected) return;
    this.drawn = true;
    seen.unobserve(this.host);
    const Plotly = await plotlyOnce();
    await Plotly.newPlot(this.host, this.data(), this.layout(), { displayModeBar: false, responsive: true });
    if (this.spec.layout.dragmode === "zoom") keysOf(this, Plotly);
    this.host.dispatchEvent(new Event("drawn"));
  }

  restyle() {
    if (this.host.data && window.Plotly) window.Plotly.react(this.host, this.data(), this.layout());
  }
}

// A chart that zooms also does so with + and -, moves with the arrows, and shows all with 0.
function keysOf(chart, Plotly) {
  const host = chart.host, whole = [...chart.spec.layout.xaxis.range];
  host.tabIndex = 0;
  host.addEventListener("keydown", (event) => {
    const [a, b] = host.layout.xaxis.range, span = b - a, middle = (a + b) / 2;
    const ranges = {
      "+": [middle - span / 4, middle + span / 4], "-": [middle - span, middle + span],
      ArrowLeft: [a - span / 5, b - span / 5], ArrowRight: [a + span / 5, b + span / 5], 0: whole,
    };
    const range = ranges[event.key === "=" ? "+" : event.key];
    if (!range) return;
    event.preventDefault();
    Plotly.relayout(host, { "xaxis.range": [Math.max(range[0], whole[0]), Math.min(range[1], whole[1])] });
  });
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) for (const chart of charts) if (chart.host === entry.target) chart.draw();
  }
}, { rootMargin: "500px" });

// The legend of a chart as buttons: each hides and shows its part.
function legendOf(spec, host) {
  const traces = spec.data.map((trace, place) => ({ trace, place })).filter(({ trace }) => trace.showlegend !== false && trace.name);
  if (traces.length < 2) return null;
  return element("ul", { class: "legend" }, traces.map(({ trace, place }) => {
    const fill = trace.marker?.color ?? trace.line?.color, shape = trace.marker?.pattern?.shape;
    const button = element("button", { type: "button", "aria-pressed": "true", onclick: () => {
      const hidden = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!hidden));
      trace.visible = !hidden;
      if (window.Plotly && host.data) window.Plotly.restyle(host, { visible: !hidden }, [place]);
    } }, element("span", { class: "swatch", fill: typeof fill === "string" ? fill : "gray", "data-idle": PATTERNS[shape] }), plain(trace.name));
    return element("li", {}, button);
  }));
}
const PATTERNS = { "/": "host_bound", "\\": "synchronization", ".": "launch_latency", x: "dependency", "-": "graph", "|": "profiler", "+": "unexplained" };

function chartOf(block) {
  const host = element("div"), cells = block.spec.layout.meta?.cells;
  // Tensors of a map are sent once, cells are their places.
  if (cells) block.spec.data.forEach((trace) => { trace.customdata = trace.customdata.map((row) => row.map((at) => cells[at] ?? at)); });
  const legend = block.legend ? legendOf(block.spec, host) : null;
  const made = element("figure", {}, block.title && element("h3", {}, block.title),
    block.spec.layout.meta?.note && element("p", { class: "note" }, block.spec.layout.meta.note), legend, host);
  new Chart(block.spec, host, block.said);
  const opens = block.spec.layout.meta?.opens;
  if (opens) host.addEventListener("drawn", () => host.on("plotly_click", ({ points: [cell] }) => {
    const [, place, , name] = cell.customdata;
    choices[opens]?.(place, plain(name));
  }));
  return made;
}
