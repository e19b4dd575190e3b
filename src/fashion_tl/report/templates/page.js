"use strict";
(() => {
  const root = document.documentElement;
  root.classList.remove("plain");
  if (matchMedia("(max-width: 75rem)").matches) document.querySelector("nav details").open = false;

  // Theme: the reader's choice, else the address (?theme=dark), else the system.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remember = (value) => { try { return value ? localStorage.setItem("theme", value) : localStorage.getItem("theme"); } catch { return null; } };
  const show = (theme) => {
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    button.textContent = dark ? "Light theme" : "Dark theme";
    return dark;
  };
  button.hidden = false;
  show(new URLSearchParams(location.search).get("theme") || remember());
  system.addEventListener("change", () => show());
  button.addEventListener("click", () => { const next = show() ? "light" : "dark"; remember(next); show(next); });

  // Tables: a press on a heading sorts by the exact value, a second one turns the order around; gaps stay last.
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.classList.contains("missing")) return null;
    const exact = cell.dataset.sort;
    return exact === undefined || Number.isNaN(Number(exact)) ? exact ?? cell.textContent : Number(exact);
  };
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "none" ? column > 0 : head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * order(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  const element = (name, text, ...children) => {
    const made = document.createElement(name);
    made.append(...(text === null ? [] : [text]), ...children);
    return made;
  };
  const thousands = (n) => n.toLocaleString("en");
  const signed = (n) => (n > 0 ? "+" : n < 0 ? "\u2212" : "") + Math.abs(n);

  for (const section of document.querySelectorAll(".compared")) {
    // Keys: show or hide a run in every plot of the section.
    for (const key of section.querySelectorAll(".keys button")) {
      key.addEventListener("click", () => {
        const shown = key.getAttribute("aria-pressed") !== "true";
        key.setAttribute("aria-pressed", String(shown));
        for (const drawn of section.querySelectorAll(".run-" + key.dataset.run)) drawn.style.display = shown ? "" : "none";
      });
    }
    const embedded = document.getElementById(section.dataset.slug + "-data");
    if (embedded) pair(section, JSON.parse(embedded.textContent));
  }

  // Two runs against each other: everything shown is in the page; the only sum done here is one count minus another.
  function pair(section, data) {
    const selects = [...section.querySelectorAll(".chooser select")];
    const table = section.querySelector("table.difference");
    const directions = [...section.querySelectorAll(".direction")];

    function difference(a, b) {
      const [first, second] = [data.matrices[a], data.matrices[b]];
      table.querySelector(".which").textContent = `Confusions of ${data.runs[a]} minus those of ${data.runs[b]}`;
      if (data.largest) {
        const cells = first.flatMap((row, i) => row.map((count, j) => [i, j, count, second[i][j], count - second[i][j]]));
        const kept = cells.filter((c) => c[4]).sort((x, y) => Math.abs(y[4]) - Math.abs(x[4])).slice(0, data.largest);
        table.tBodies[0].replaceChildren(...kept.map(([i, j, m, n, d]) => {
          const head = element("th", data.classes[i]);
          head.scope = "row";
          return element("tr", null, head, ...[data.classes[j], m, n, signed(d)].map((text) => element("td", String(text))));
        }));
        return;
      }
      const top = Math.max(1, ...first.flatMap((row, i) => row.map((count, j) => Math.abs(count - second[i][j]))));
      [...table.tBodies[0].rows].forEach((row, i) => [...row.cells].slice(1).forEach((cell, j) => {
        const change = first[i][j] - second[i][j];
        cell.textContent = signed(change);
        cell.className = change > 0 ? "more" : change < 0 ? "fewer" : "zero";
        cell.style.setProperty("--a", change ? (0.8 * Math.abs(change) / top).toFixed(3) : 0);
      }));
    }

    function shots(box, better, worse, both) {
      box.querySelector("ul").replaceChildren(...(data.shown[`${better}-${worse}`] ?? []).map((place) => {
        const image = data.pool[place];
        const caption = element("figcaption", null, element("strong", data.classes[image.label]));
        for (const run of both) {
          const heard = element("span", `${data.runs[run]}: `);
          heard.className = "heard";
          const sign = section.querySelector(`.keys [data-run="${run}"] .sign`).cloneNode(true);
          caption.append(element("small", null, sign, heard, data.classes[image.predicted[run]]));
        }
        caption.append(element("small", `image ${image.index}`));
        const figure = element("figure", null, caption);
        if (image.picture) {
          const picture = element("img", null);
          Object.assign(picture, { src: image.picture, className: "pixels", alt: `Test image ${image.index}, ${data.classes[image.label]}` });
          figure.prepend(picture);
        }
        return element("li", null, figure);
      }));
    }

    const update = () => {
      const [a, b] = selects.map((select) => Number(select.value));
      const [first, second, p] = data.tests[`${a}-${b}`] ?? (([x, y, z]) => [y, x, z])(data.tests[`${b}-${a}`] ?? [0, 0, "= 1.000"]);
      section.querySelector(".verdict").textContent = a === b ? "Choose two different runs." :
        `${data.runs[a]} alone is correct on ${thousands(first)} images, ${data.runs[b]} alone on ${thousands(second)}: ` +
        `McNemar\u2019s test gives p ${p}, adjusted for all pairs.`;
      directions[0].querySelector("h5").textContent = `Only ${data.runs[a]} is correct: ${thousands(first)}`;
      directions[1].querySelector("h5").textContent = `Only ${data.runs[b]} is correct: ${thousands(second)}`;
      difference(a, b);
      shots(directions[0], a, b, [a, b]);
      shots(directions[1], b, a, [a, b]);
    };
    selects.forEach((select) => select.addEventListener("change", update));
    // A browser may restore a choice when the page is loaded again.
    if (selects.some((select) => !select.selectedOptions[0]?.defaultSelected)) update();
  }
})();
