// A table that can be sorted, searched and copied. Cells are words, or a short and a full name.

const FIRST_ROWS = 25;

function fullWords(cell) {
  return Array.isArray(cell) ? cell[1] : cell;
}

// By how much the words of a table are smaller on paper than those of a narrow one, so that all of its columns fit. Widths
// are in characters; names and sentences may wrap, numbers and single words of heads do not.
const PAPER_CHARACTERS = 118, ROOM_OF_NAMES = 16, PADDING = 2, SMALLEST = 0.55;
function fitOf(grid) {
  const longest = (words) => Math.max(...words.split(/[\s-]/).map((word) => word.length));
  const widths = grid.columns.map((column, place) => {
    const cells = [...grid.rows, grid.total].map((row) => fullWords(row[place] ?? ""));
    const own = cells.reduce((most, words) => Math.max(most, column.number ? words.length : longest(words)), 0);
    return PADDING + Math.max(longest(column.head), column.number ? own : Math.min(own, ROOM_OF_NAMES));
  });
  return Math.max(Math.min(1, PAPER_CHARACTERS / widths.reduce((sum, width) => sum + width, 0)), SMALLEST);
}

function tableOf(grid) {
  const state = { words: "", by: -1, descending: true, all: false };
  const places = grid.rows.map((_, place) => place);
  const haystack = grid.rows.map((row) => row.map(fullWords).join("\u0001").toLowerCase());
  const body = element("tbody"), many = element("span", { class: "many" });
  const more = element("button", { class: "quiet more", type: "button", onclick: () => { state.all = true; draw(); } });
  const heads = grid.columns.map((column, place) => headOf(column, () => sortBy(place)));

  function sortBy(place) {
    state.descending = state.by === place ? !state.descending : grid.columns[place].number;
    state.by = place;
    draw();
    say(`sorted by ${grid.columns[place].head}, ${state.descending ? "descending" : "ascending"}`);
  }

  function chosen() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const found = places.filter((place) => words.every((word) => haystack[place].includes(word)));
    if (state.by < 0) return found;
    const keys = grid.keys[state.by], sign = state.descending ? -1 : 1, by = state.by;
    const order = keys
      ? (a, b) => keys[a] - keys[b]
      : (a, b) => fullWords(grid.rows[a][by]).localeCompare(fullWords(grid.rows[b][by]), "en", { numeric: true });
    return found.sort((a, b) => sign * order(a, b) || a - b);
  }

  function draw() {
    const found = chosen(), shown = state.all ? found : found.slice(0, FIRST_ROWS);
    body.replaceChildren(...shown.map((place) => rowOf(grid, grid.rows[place])));
    heads.forEach((head, place) => {
      head.setAttribute("aria-sort", place !== state.by ? "none" : state.descending ? "descending" : "ascending");
    });
    const left = grid.more ? `, ${grid.more.toLocaleString("en")} more in tetrace report --format csv` : "";
    many.textContent = (found.length === places.length ? rowsOf(found.length) : `${found.length} of ${rowsOf(places.length)}`) + left;
    scroll.classList.toggle("all", state.all);
    more.hidden = shown.length === found.length;
    more.textContent = `Show all ${rowsOf(found.length)}`;
  }

  async function copy(event) {
    const lines = [grid.columns.map((column) => column.head), ...chosen().map((place) => grid.rows[place].map(fullWords))];
    await copied(lines.map((line) => line.join("\t")).join("\n") + "\n");
    const button = event.target;
    button.textContent = "Copied";
    say(`${rowsOf(lines.length - 1)} copied`);
    setTimeout(() => { button.textContent = "Copy"; }, 1400);
  }

  const search = element("input", {
    type: "search", placeholder: "Search", "aria-label": `Search in ${grid.title}`, spellcheck: "false",
    oninput: (event) => { state.words = event.target.value; state.all = false; draw(); },
  });
  const bar = element("div", { class: "bar" },
    explained(element("span", { class: "name" }, grid.title), grid.about, false), many,
    places.length > 5 && search,
    element("button", { class: "quiet", type: "button", onclick: copy, "aria-label": `Copy ${grid.title}` }, "Copy"));
  const table = element("table", {},
    element("caption", { class: "unseen" }, grid.title),
    element("thead", {}, element("tr", {}, heads)), body,
    grid.total.length ? element("tfoot", {}, element("tr", {}, grid.total.map((words, place) => cellOf(grid.columns[place], words)))) : null);
  table.style.setProperty("--fit", fitOf(grid).toFixed(3));
  const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": grid.title }, table);
  draw();
  return element("div", { class: "table" }, bar, scroll, more);
}

function rowsOf(number) {
  return number === 1 ? "1 row" : `${number.toLocaleString("en")} rows`;
}

function headOf(column, sort) {
  const button = element("button", { type: "button", onclick: sort, "aria-label": column.head || "unnamed column" }, column.head || "\u00a0");
  return element("th", { scope: "col", class: column.number ? "number" : "" }, explained(button, column.term, false));
}

function rowOf(grid, row) {
  return element("tr", {}, row.map((cell, place) => cellOf(grid.columns[place], cell)));
}

function cellOf(column, cell) {
  if (column.number) return element("td", { class: "number" }, cell);
  const full = fullWords(cell), short = Array.isArray(cell) ? cell[0] : cell;
  if (!column.code) return element("td", { class: full.length < 30 ? "words short" : "words" }, element("bdi", {}, cell));
  if (full.length < 34) return element("td", { class: "code" }, element("bdi", {}, full));
  const button = element("button", { class: "long", type: "button", title: full.slice(0, 400), "aria-expanded": "false" }, short);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? short : full;
  });
  return element("td", { class: "code" }, button);
}
