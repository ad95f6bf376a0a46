// The page from top to bottom: head, verdict with its numbers, findings, sections; theme, contents and printing.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;

function theme(name) {
  root.dataset.theme = name;
  for (const chart of charts) chart.restyle();
  const button = document.getElementById("theme");
  if (button) button.textContent = name === "dark" ? "Light" : "Dark";
}

function preferred() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

function top_() {
  const turn = () => { chosenByHand = true; theme(root.dataset.theme === "dark" ? "light" : "dark"); };
  document.querySelector(".top").append(
    element("span", { class: "brand" }, "tetrace"),
    element("span", { class: "file", title: data.title }, element("bdi", {}, data.title)),
    element("button", { class: "quiet", id: "theme", type: "button", "aria-label": "Light or dark", onclick: turn }),
    element("button", { class: "quiet", type: "button", onclick: () => print() }, "Print"));
}
let chosenByHand = false;

// The first words of a verdict, up to its colon, are what it comes to.
function verdictOf(sentence) {
  const colon = sentence.indexOf(": ");
  const parts = colon > 0 && colon < 40 ? [element("b", {}, sentence.slice(0, colon)), sentence.slice(colon)] : [sentence];
  return element("h1", { class: "verdict", id: "verdict", tabindex: "-1" }, parts);
}

function wallOf(wall) {
  const width = document.querySelector("main").clientWidth;
  const parts = wall.parts.map((part) => {
    const box = element("span", { grow: part.ns, fill: part.color, "data-idle": part.idle || null },
      part.ns / wall.ns * width > part.label.length * 7.2 + 34 && element("span", {}, part.label));
    return explained(box, `${part.label}: ${part.ms} ${wall.head}, ${part.percent} of wall. ${meaning(part.term)}`, false);
  });
  const legend = wall.parts.map((part) => element("li", {},
    element("span", { class: "swatch", fill: part.color, "data-idle": part.idle || null }),
    explained(element("span", {}, part.label), meaning(part.term)),
    element("span", { class: "ms" }, `${part.ms} · ${part.percent}`)));
  return element("div", { class: "wall", role: "group", "aria-label": "An average step: busy by category, idle by cause" },
    element("div", { class: "scale" }, element("span", {}, `Busy by category, idle by cause${wall.lanes}`), element("span", {}, `${wall.head} · of wall`)),
    element("div", { class: "stack" }, parts),
    element("ul", { class: "legend" }, legend));
}

function findingsOf(findings) {
  if (!findings.length) return element("p", { class: "lead" }, "None: nothing that tetrace looks for holds this run back.");
  return element("ol", { class: "findings" }, findings.map((finding) => element("li", {},
    element("div", { class: "cost" }, finding.cost),
    element("div", {}, element("div", { class: "what" }, finding.title), element("div", { class: "why" }, finding.evidence),
      element("div", { class: "do" }, finding.advice)))));
}

function sectionOf(id, title, lead, ...content) {
  return element("section", { id, "aria-labelledby": `${id}-title` },
    element("h2", { id: `${id}-title` }, title), lead && element("p", { class: "lead" }, lead), content);
}

function contents() {
  const links = [...document.querySelectorAll("main > section")].map((section) =>
    element("a", { href: `#${section.id}` }, section.dataset.short || section.querySelector("h2").textContent));
  document.querySelector(".contents").append(...links);
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) {
        if (link.hash === `#${entry.target.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main > section").forEach((section) => watch.observe(section));
}

const SHORT = { activity: "Where it goes", timeline: "One step", launches: "Launches", quantization: "FP8 cost" };

function write() {
  top_();
  const main = document.querySelector("main");
  main.append(element("p", { class: "origin" }, data.origin), verdictOf(data.verdict),
    element("p", { class: "basis" }, [data.steps_used, data.plain_step].filter(Boolean).join(" · ")));
  main.append(...data.notices.map((line) => element("p", { class: "notice", role: "note" }, line)));
  if (data.wall) main.append(wallOf(data.wall), figuresOf(data.figures), sectionOf("findings", "What holds it back", "Worst first; they may overlap.", findingsOf(data.findings)));
  for (const section of data.sections) {
    const made = sectionOf(section.id, section.title, section.lead, section.blocks.map(blockOf));
    if (SHORT[section.id]) made.dataset.short = SHORT[section.id];
    main.append(made);
  }
  main.append(element("p", { class: "made" }, `Made by tetrace ${data.version}. This file needs no network.`));
  contents();
}

// Paper is light, and narrower than a screen; what was not drawn yet is drawn for it.
function forPrint() {
  const before = root.dataset.theme;
  paper = 680;
  theme("light");
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  for (const chart of charts) chart.draw();
  addEventListener("afterprint", () => { paper = 0; theme(before); }, { once: true });
}

theme(preferred());
write();
theme(root.dataset.theme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!chosenByHand) theme(preferred()); });
addEventListener("beforeprint", forPrint);
root.dataset.written = String(Math.round(performance.now()));
plotlyOnce().then(() => { root.dataset.ready = String(Math.round(performance.now())); },
  (error) => { say(`charts cannot be drawn: ${error.message}`); document.querySelectorAll(".plot").forEach((host) => { host.textContent = "This browser cannot unpack the charts; the tables have their numbers."; }); });
