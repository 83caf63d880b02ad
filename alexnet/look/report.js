"use strict";
// Text becomes nodes by textContent alone: a name is never read as HTML.
const data = JSON.parse(document.getElementById("page-data").textContent);

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

// The image of a picture by its place in the album, or words where there is none.
function image(place) {
  const [, label, bytes, why] = data.pictures[place];
  if (!bytes) return element("div", why || "no picture", "none");
  const made = document.createElement("img");
  made.src = "data:image/jpeg;base64," + bytes;
  made.alt = "A picture labelled " + label;
  made.width = made.height = 128;
  return made;
}

// Images are made when their part is first looked at.
function develop(part) {
  for (const item of part.querySelectorAll("li[data-picture]")) {
    item.prepend(image(Number(item.dataset.picture)));
    item.removeAttribute("data-picture");
  }
}

function tabs() {
  const list = document.querySelector("nav ul");
  const links = [...list.querySelectorAll("a")];
  const panels = links.map((link) => document.querySelector(link.getAttribute("href")));
  document.documentElement.classList.add("tabbed");
  list.setAttribute("role", "tablist");
  links.forEach((link, at) => {
    link.parentElement.setAttribute("role", "presentation");
    link.setAttribute("role", "tab");
    panels[at].id = "panel-" + panels[at].id; // or the browser would scroll to it
    link.setAttribute("aria-controls", panels[at].id);
    panels[at].setAttribute("role", "tabpanel");
    panels[at].tabIndex = 0;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      select(at);
    });
    link.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: links.length - 1 - at }[event.key];
      if (event.key === " ") select(at);
      else if (step !== undefined) select((at + step + links.length) % links.length, true);
      else return;
      event.preventDefault();
    });
  });
  function select(which, focus = false) {
    links.forEach((link, at) => {
      link.setAttribute("aria-selected", String(at === which));
      link.tabIndex = at === which ? 0 : -1;
      panels[at].hidden = at !== which;
    });
    develop(panels[which]);
    if (focus) links[which].focus();
    history.replaceState(null, "", links[which].getAttribute("href"));
  }
  const asked = () => links.findIndex((link) => link.getAttribute("href") === location.hash);
  addEventListener("hashchange", () => asked() >= 0 && select(asked()));
  addEventListener("beforeprint", () => panels.forEach(develop));
  select(Math.max(0, asked()));
}

function galleries() {
  const dialog = document.querySelector("dialog");
  const [title, note, list] = ["h2", ".note", "ul"].map((one) => dialog.querySelector(one));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-gallery]");
    if (button) {
      const found = data.galleries[button.dataset.gallery];
      title.textContent = found.title;
      note.textContent = found.note;
      list.replaceChildren(...found.items.map(([place, caption]) => {
        const item = document.createElement("li");
        item.append(image(place), element("p", data.pictures[place][0], "name"), element("p", caption));
        return item;
      }));
      dialog.showModal();
      dialog.scrollTop = 0;
    } else if (event.target === dialog || event.target.closest("dialog button")) dialog.close();
  });
}

function sorting() {
  const order = new Intl.Collator(undefined, { numeric: true });
  for (const button of document.querySelectorAll("table.sorts thead button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const table = head.closest("table");
      const numbers = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const falls = before === "none" ? numbers : before === "ascending";
      for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => {
        const cell = row.cells[head.cellIndex];
        return { row, key: cell.dataset.key === undefined ? cell.textContent : Number(cell.dataset.key) };
      });
      rows.sort((a, b) => {
        const way = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : order.compare(a.key, b.key);
        return falls ? -way : way;
      });
      table.tBodies[0].append(...rows.map((one) => one.row));
    });
  }
}

function finding() {
  for (const field of document.querySelectorAll(".findable input")) {
    const rows = [...field.closest(".findable").querySelector("tbody").rows];
    const said = element("output");
    field.closest(".find").append(said);
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      let found = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        found += !row.hidden;
      }
      said.textContent = wanted ? `${found} of ${rows.length}` : "";
    });
  }
}

// A cell that a spreadsheet would compute begins with an apostrophe.
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function saving() {
  for (const button of document.querySelectorAll("button[data-save]")) {
    button.addEventListener("click", () => {
      const lines = data.saves[button.dataset.save].map((row) => row.map(cell).join(",") + "\r\n");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
      link.download = button.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }
}

tabs();
galleries();
sorting();
finding();
saving();
