// What sections are made of: each type of block as an element.

const BLOCKS = {
  text: (block) => element("p", { class: "lead" }, block.text),
  quote: (block) => element("pre", { class: "quote" }, block.text),
  list: (block) => element("ul", { class: "plain" }, block.rows.map((row) => element("li", {}, row))),
  facts: (block) => figuresOf(block.rows),
  chart: chartOf,
  icicle: icicleOf,
  table: (block) => tableOf(block.grid),
  tables: (block) => choiceOf("table", block.grids.map((grid) => [grid.title, () => tableOf({ ...grid })])),
  choice: (block) => choiceOf(block.what, block.blocks.map((one) => [one.title, () => blockOf({ ...one, title: "" })])),
  folded: (block) => {
    const made = element("details", { class: "folded" }, element("summary", {}, block.title));
    made.addEventListener("toggle", () => { if (made.children.length === 1) made.append(blockOf(block.block)); }, { once: true });
    return made;
  },
  definitions: () => element("dl", { class: "meanings" },
    Object.entries(data.definitions).flatMap(([name, meaning]) => [element("dt", {}, name), element("dd", {}, meaning)])),
};

function blockOf(block) {
  return BLOCKS[block.type](block);
}

// Several blocks of which one is shown, chosen by a select, or from elsewhere on the page: choices[what](place).
const choices = {};
function choiceOf(what, options) {
  const shown = element("div");
  const select = element("select", { "aria-label": `Choose a ${what}`, onchange: () => pick(Number(select.value)) },
    options.map(([title], place) => element("option", { value: place }, title.length > 90 ? `${title.slice(0, 44)}…${title.slice(-44)}` : title)));
  const pick = (place) => shown.replaceChildren(options[place][1]());
  const made = element("div", {}, element("label", { class: "pick" }, what, select), shown);
  choices[what] = (place) => {
    select.value = place;
    pick(place);
    made.scrollIntoView({ block: "nearest" });
    say(`${what} ${options[place][0]}`);
  };
  pick(0);
  return made;
}

// The definition of a term as a sentence.
function meaning(term) {
  const words = data.definitions[term];
  return words && (/^(is|are|adds|takes)\b/.test(words) ? `${term} ${words}` : `${term}: ${words}`);
}

function figuresOf(rows) {
  return element("dl", { class: rows.length < 5 ? "figures few" : "figures" }, rows.map((row) => element("div", {},
    element("dt", {}, explained(element("span", {}, row.label), meaning(row.term))),
    element("dd", {}, element("div", { class: "value" }, row.value), element("div", { class: "note" }, row.note)))));
}
