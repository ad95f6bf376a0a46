// The icicle: a click or Enter goes into a part, Escape up, arrows move; where one is stands above it as a path.

function icicleOf(block) {
  const trace = block.spec.data[0];
  const place = new Map(trace.ids.map((id, index) => [id, index]));
  const children = new Map(trace.ids.map((id) => [id, []]));
  trace.parents.forEach((parent, index) => { if (parent) children.get(parent).push(trace.ids[index]); });
  const state = { root: trace.ids[0], at: trace.ids[0] };
  const host = element("div"), crumbs = element("div", { class: "crumbs" });
  const frame = element("div", {
    class: "zoom", tabindex: "0", role: "application", onkeydown: keys,
    "aria-label": "GPU activity by phase, module, category and kernel: arrows move, Enter goes in, Escape goes up",
  }, host);

  const name = (id) => plain(trace.labels[place.get(id)]);
  const parent = (id) => trace.parents[place.get(id)];
  const numbers = (id) => { const [kind, time, share, count] = trace.customdata[place.get(id)]; return `${kind}, ${time}, ${share}, ${count} activities`; };

  function pathTo(id) {
    return id ? [...pathTo(parent(id)), id] : [];
  }

  function show(id) {
    if (!children.get(id).length) id = parent(id) || id;
    state.root = state.at = id;
    trace.level = id;
    if (window.Plotly && host.data) window.Plotly.restyle(host, { level: id }, [0]);
    marked();
  }

  function marked() {
    const steps = pathTo(state.root).map((id) => element("button", {
      type: "button", "aria-current": id === state.root ? "true" : null, onclick: () => show(id),
    }, name(id)));
    const parts = steps.flatMap((step, index) => (index ? [element("span", { "aria-hidden": "true" }, "›"), step] : [step]));
    const at = state.at === state.root ? numbers(state.at) : `${name(state.at)}: ${numbers(state.at)}`;
    crumbs.replaceChildren(...parts, element("span", { class: "at" }, at));
    say(at);
    for (const slice of host.querySelectorAll("g.slice")) {
      const path = slice.querySelector("path.surface");
      const own = slice.__data__?.data?.data?.id === state.at && state.at !== state.root;
      if (path) { path.style.stroke = own ? color("focus") : ""; path.style.strokeWidth = own ? "3px" : ""; }
    }
  }

  function keys(event) {
    const siblings = state.at === state.root ? [] : children.get(parent(state.at));
    const index = siblings.indexOf(state.at);
    const moves = {
      ArrowRight: () => siblings[Math.min(index + 1, siblings.length - 1)],
      ArrowLeft: () => siblings[Math.max(index - 1, 0)],
      ArrowDown: () => children.get(state.at)[0],
      ArrowUp: () => (state.at === state.root ? null : parent(state.at)),
    };
    if (event.key in moves) {
      state.at = moves[event.key]() || state.at;
      marked();
    } else if (event.key === "Enter" || event.key === " ") show(state.at);
    else if (event.key === "Escape" || event.key === "Backspace") show(parent(state.root) || state.root);
    else return;
    event.preventDefault();
  }

  host.addEventListener("drawn", () => {
    host.on("plotly_icicleclick", (event) => {
      const id = event.points[0].id;
      show(id === state.root ? parent(id) || id : id);
      return false;
    });
  });
  const made = element("figure", {}, crumbs, frame);
  new Chart(block.spec, host, "Icicle of GPU activity by phase, module, category and kernel");
  host.removeAttribute("role");
  marked();
  return made;
}
