// Elements, tooltips and what is said to screen readers. Names from a recording only ever become text of an element.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "fill") made.style.setProperty("--fill", value);
    else if (name === "grow") made.style.flex = `${value} 1 0`;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false || child === "") continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

const tip = document.getElementById("tip");

// `node` shows `text` while it is pointed at or focused.
function explained(node, text, underlined = true) {
  if (!text) return node;
  if (underlined) node.classList.add("term");
  if (!node.matches("button, a, input, select")) node.tabIndex = 0;
  const show = () => {
    tip.textContent = text;
    tip.hidden = false;
    node.setAttribute("aria-describedby", "tip");
    const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const below = box.bottom + own.height + 10 < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
    tip.style.top = `${below ? box.bottom + 7 : Math.max(8, box.top - own.height - 7)}px`;
  };
  const hide = () => { tip.hidden = true; node.removeAttribute("aria-describedby"); };
  node.addEventListener("mouseenter", show);
  node.addEventListener("focus", show);
  node.addEventListener("mouseleave", hide);
  node.addEventListener("blur", hide);
  return node;
}
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

function say(text) {
  document.getElementById("said").textContent = text;
}

// A file that was opened by a double-click may have no clipboard of its own.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// What words that were made for plotly say.
function plain(label) {
  return label.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&").replaceAll("\u200b", "");
}
