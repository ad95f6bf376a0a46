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
  choice: (block) => choiceOf(block.what, block.blocks.map((one) => [one.title, () => blockOf({ ...one, title: "" })]), block.more, block.missing),
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

// Several blocks of which one is shown, chosen by a select, or from elsewhere on the page: choices[what](place, name),
// where -1 is one that this file does not hold.
const choices = {};
function choiceOf(what, options, more, missing) {
  const shown = element("div");
  const select = element("select", { "aria-label": `Choose a ${what}`, onchange: () => pick(Number(select.value)) },
    options.map(([title], place) => element("option", { value: place }, title.length > 90 ? `${title.slice(0, 44)}…${title.slice(-44)}` : title)));
  const pick = (place) => shown.replaceChildren(options[place][1]());
  const made = element("div", {}, element("label", { class: "pick" }, what, select, more && element("span", { class: "more-of" }, more)), shown);
  choices[what] = (place, name) => {
    select.value = place;
    if (place >= 0) pick(place);
    else shown.replaceChildren(element("p", { class: "notice missing" }, `${name}: ${missing}`));
    made.scrollIntoView({ block: "nearest" });
    say(place >= 0 ? `${what} ${options[place][0]}` : `${name}: ${missing}`);
  };
  pick(0);
  return made;
}

// The definition of a term: whole sentences.
function meaning(term) {
  return data.definitions[term];
}

function figuresOf(rows) {
  return element("dl", { class: rows.length < 5 ? "figures few" : "figures" }, rows.map((row) => element("div", {},
    element("dt", {}, explained(element("span", {}, row.label), meaning(row.term))),
    element("dd", {}, element("div", { class: "value" }, row.value), element("div", { class: "note" }, row.note)))));
}
