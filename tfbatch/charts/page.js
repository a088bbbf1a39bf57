"use strict";
// Draws the page's figures and its long tables from the JSON in #data. Fetches nothing.
(() => {
  const content = JSON.parse(document.getElementById("data").textContent);
  const ROWS_SHOWN = 50;

  const element = (name, attributes = {}, ...children) => {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...children);
    return made;
  };

  // "@ink" is the page's style --ink: one figure serves a light and a dark page.
  const colored = (value, style) => {
    if (typeof value === "string" && value.startsWith("@")) {
      return style.getPropertyValue("--" + value.slice(1)).trim();
    }
    if (Array.isArray(value)) {
      const plain = (typeof value[0] === "number" || value[0] === null) && typeof value[1] !== "string";
      return plain ? value : value.map((part) => colored(part, style));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, part]) => [key, colored(part, style)]));
    }
    return value;
  };

  const loadPlotly = async () => {
    const text = atob(document.getElementById("plotly").textContent);
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n += 1) bytes[n] = text.charCodeAt(n);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(element("script", {textContent: await new Response(stream).text()}));
    if (!window.Plotly) throw new Error("Plotly did not start");
  };

  // What a figure shows now: in the unit that its switch names.
  const inUnit = (figure, unit) => {
    if (!unit) return figure.data;
    return figure.data.map((trace) => ({...trace, x: trace.meta.in_other_units[unit - 1]}));
  };

  const draw = (id) => {
    const figure = content.figures[id];
    const holder = document.getElementById(id);
    const unit = Number(holder.dataset.unit || 0);
    const style = getComputedStyle(document.documentElement);
    const layout = colored(figure.layout, style);
    if (unit) layout.xaxis.title.text = figure.units[unit];
    const data = colored(inUnit(figure, unit), style);
    const off = new Set(JSON.parse(holder.dataset.off || "[]"));
    data.forEach((trace, number) => { trace.visible = !off.has(number); });
    legend(id, figure, style, off);
    const config = {
      displaylogo: false, responsive: true, displayModeBar: innerWidth < 640 ? false : "hover",
      modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d"],
      modeBarButtonsToAdd: [{
        name: "Save as SVG", icon: Plotly.Icons.camera, click: () => save(id, data, layout)}],
    };
    return Plotly.react(holder.querySelector(".plot"), data, layout, config);
  };

  // A saved picture has title and legend in it.
  const save = (id, data, layout) => {
    const title = document.querySelector(`#${id} figcaption`).textContent;
    const whole = {...layout, title: {text: title}, showlegend: true,
      margin: {...layout.margin, t: layout.margin.t + 36}};
    Plotly.downloadImage({data, layout: whole},
      {format: "svg", filename: title, width: 1100, height: layout.height + 36});
  };

  const SHAPES = {
    "circle": "M11 2.5a3.5 3.5 0 1 0 .01 0z", "diamond": "M11 1.5L15.5 6L11 10.5L6.5 6z",
    "square": "M7.5 2.5h7v7h-7z", "x": "M7.5 2.5l7 7M14.5 2.5l-7 7",
  };

  const swatch = (entry, style) => {
    const color = colored(entry.color, style);
    const shape = (entry.shape || "").replace("-open", "");
    const filled = entry.shape === shape && shape !== "x";
    const parts = [];
    if (shape === "band") parts.push(`<rect width="22" height="12" fill="${color}"/>`);
    if (entry.line) parts.push(`<path d="M0 6H22" stroke="${color}" stroke-width="2" `
      + `${entry.line === "dash" ? 'stroke-dasharray="5 3"' : ""}/>`);
    if (SHAPES[shape]) parts.push(`<path d="${SHAPES[shape]}" stroke="${color}" stroke-width="1.5" `
      + `fill="${filled ? color : "none"}"/>`);
    return `<svg width="22" height="12" aria-hidden="true">${parts.join("")}</svg>`;
  };

  // Each entry shows and hides its lines.
  const legend = (id, figure, style, off) => {
    const holder = document.getElementById(id);
    const items = figure.legend.map((entry) => {
      const key = element("span", {innerHTML: swatch(entry, style)});
      const name = element("span", {textContent: entry.name});
      if (!entry.traces.length) return element("li", {}, element("span", {className: "key"}, key, name));
      const hidden = off.has(entry.traces[0]);
      const button = element("button", {type: "button", ariaPressed: String(!hidden)}, key, name);
      const item = element("li", {}, button);
      button.addEventListener("click", () => {
        entry.traces.forEach((n) => (hidden ? off.delete(n) : off.add(n)));
        holder.dataset.off = JSON.stringify([...off]);
        draw(id);
        holder.querySelector(".legend").children[items.indexOf(item)].firstChild.focus();
      });
      return item;
    });
    const list = element("ul", {className: "legend", ariaLabel: "Legend"}, ...items);
    const before = holder.querySelector(".legend");
    if (before) before.replaceWith(list);
    else holder.querySelector(":scope > .scroll").after(list);
  };

  const unitSwitch = (id, figure) => {
    const holder = document.getElementById(id);
    const choices = figure.units.map((unit, number) => {
      const input = element("input", {type: "radio", name: id + "-unit", checked: number === 0});
      input.addEventListener("change", () => {
        holder.dataset.unit = number;
        draw(id);
      });
      return element("label", {}, input, " " + unit.replace("<br>", " "));
    });
    const name = element("legend", {textContent: "horizontal axis"});
    holder.querySelector("figcaption").after(element("fieldset", {}, name, ...choices));
  };

  // Where the error bars of a point end; of what is predicted, the shaded interval.
  const INTERVAL = ", interval";
  const ends = (figure, trace, n) => {
    const ribbon = figure.data.find((other) => other.name === trace.name + INTERVAL);
    if (ribbon) { // there along the upper end, and back along the lower one
      const place = ribbon.x.slice(0, ribbon.x.length / 2).indexOf(trace.x[n]);
      return place < 0 ? [null, null] : [ribbon.y[ribbon.y.length - 1 - place], ribbon.y[place]];
    }
    const errors = trace.error_x || trace.error_y;
    if (!errors || errors.array.every((length) => length === 0)) return [null, null];
    const value = (trace.error_x ? trace.x : trace.y)[n];
    const end = (length, sign) => (length === null ? null : value + sign * length);
    return [end(errors.arrayminus[n], -1), end(errors.array[n], 1)];
  };

  // The rows of a figure's points, and the names of their columns; a column without a cell is left out.
  const tabulated = (figure) => {
    const text = (title) => title.text.replace("<br>", " ");
    const axisOf = (trace) => figure.layout["yaxis" + (trace.yaxis || "y").slice(1)];
    const traces = figure.data.filter((trace) => trace.type !== "parcoords" && !trace.name.endsWith(INTERVAL));
    const quantities = new Set(traces.map((trace) => text(axisOf(trace).title)));
    const shaded = traces.find((trace) => Array.isArray(trace.marker && trace.marker.color));
    const units = (figure.units || []).slice(1).map((unit) => unit.replace("<br>", " "));
    const head = ["series", "row", text(figure.layout.xaxis.title), ...units, "quantity",
      quantities.size === 1 ? [...quantities][0] : "value", "low", "high",
      shaded ? text(shaded.marker.colorbar.title) : "", "about"];
    const rows = traces.flatMap((trace) => trace.x.map((x, n) => {
      const {title, ticktext: names} = axisOf(trace);
      const others = units.map((_, unit) => trace.meta.in_other_units[unit][n]);
      return [trace.name, names ? names[trace.y[n]].replace("<br>", " ").replace(/<[^>]*>/g, "") : null, x, ...others,
        quantities.size > 1 ? text(title) : null, names ? null : trace.y[n], ...ends(figure, trace, n),
        Array.isArray(trace.marker && trace.marker.color) ? trace.marker.color[n] : null,
        trace.text ? trace.text[n].replaceAll("<br>", "; ") : null];
    }));
    const used = head.map((_, c) => rows.some((row) => row[c] !== null && row[c] !== undefined));
    const kept = (row) => row.filter((_, c) => used[c]);
    return {head: kept(head), rows: rows.map(kept)};
  };

  // The numbers behind a figure, for those who do not see it: made when they are asked for.
  const numbers = (id, figure) => {
    const body = element("div", {className: "scroll"});
    const more = element("details", {}, element("summary", {textContent: "Numbers"}), body);
    more.addEventListener("toggle", () => {
      if (!more.open || body.firstChild) return;
      const {head, rows} = tabulated(figure);
      const shown = rows.slice(0, 500).map((row) =>
        element("tr", {}, ...row.map((cell) => element("td", {textContent: format(cell, 5)}))));
      body.append(element("table", {},
        element("thead", {}, element("tr", {}, ...head.map((c) => element("th", {textContent: c})))),
        element("tbody", {}, ...shown)));
      if (rows.length > shown.length) body.append(`The first ${shown.length} of ${rows.length}.`);
    });
    document.getElementById(id).append(more);
  };

  const format = (cell, digits) => {
    if (cell === null || cell === undefined) return "";
    if (typeof cell !== "number" || Number.isInteger(cell)) return String(cell);
    return String(Number(cell.toPrecision(digits || 6)));
  };

  const drawFigures = async () => {
    const ids = Object.keys(content.figures);
    if (!ids.length) return;
    await loadPlotly();
    for (const id of ids) {
      const figure = content.figures[id];
      const plot = document.getElementById(id).querySelector(".plot");
      plot.style.minHeight = figure.layout.height + "px";
      if (figure.data[0].type === "parcoords") plot.classList.add("wide");
      if (figure.units) unitSwitch(id, figure);
      if (figure.data.some((trace) => trace.type !== "parcoords")) numbers(id, figure);
    }
    // Those on the screen first; the others as they come near it.
    const waiting = new Set(ids);
    const drawOnce = (id) => waiting.delete(id) && draw(id);
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) drawOnce(entry.target.id);
    }, {rootMargin: "200px"});
    ids.forEach((id) => watch.observe(document.getElementById(id)));
    const redraw = () => ids.filter((id) => !waiting.has(id)).forEach(draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    const resize = () => document.querySelectorAll(".plot.js-plotly-plot").forEach((p) => Plotly.Plots.resize(p));
    addEventListener("beforeprint", () => { ids.forEach(drawOnce); redraw(); resize(); });
    addEventListener("afterprint", () => { redraw(); resize(); });
    window.drawAllFigures = () => Promise.all([...waiting].map(drawOnce));
    document.documentElement.dataset.ready = "true";
  };

  const sortableTable = (id, table) => {
    const holder = document.getElementById(id);
    const caption = holder.dataset.caption;
    const state = {column: null, down: false, filter: "", page: 0};
    const body = element("tbody");
    const count = element("span", {ariaLive: "polite"});
    const texts = table.rows.map((row, n) =>
      row.map((cell, c) => format(cell, table.digits[c])).join(" ").toLowerCase());
    const isNumber = table.columns.map((_, c) => table.rows.some((row) => typeof row[c] === "number"));

    const shown = () => {
      const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
      const found = table.rows.map((_, n) => n).filter((n) => words.every((w) => texts[n].includes(w)));
      if (state.column === null) return found;
      const key = (n) => table.rows[n][state.column];
      const kind = (v) => (v === null ? 2 : typeof v === "number" ? 0 : 1); // nothing comes last
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (kind(x) !== kind(y)) return kind(x) - kind(y);
        const less = x < y ? -1 : x > y ? 1 : 0;
        return (state.down ? -less : less) || a - b;
      };
      return found.sort(order);
    };

    const rowOf = (n) => {
      const cells = table.rows[n].map((cell, c) => element("td", {
        textContent: format(cell, table.digits[c]), className: isNumber[c] ? "number" : ""}));
      const detail = table.details_of.length ? table.details_of[n] : null;
      const row = element("tr", {}, ...cells);
      if (!table.details_of.length) return [row];
      const last = element("td");
      row.append(last);
      if (detail === null) return [row];
      const wide = element("td", {colSpan: table.columns.length + 1},
        element("pre", {textContent: table.details[detail], tabIndex: 0}));
      const under = element("tr", {hidden: true}, wide);
      const button = element("button", {type: "button", textContent: "log", ariaExpanded: "false"});
      button.addEventListener("click", () => {
        under.hidden = !under.hidden;
        button.ariaExpanded = String(!under.hidden);
      });
      last.append(button);
      return [row, under];
    };

    const before = element("button", {type: "button", textContent: "previous"});
    const after = element("button", {type: "button", textContent: "next"});
    const render = () => {
      const found = shown();
      const pages = Math.max(1, Math.ceil(found.length / ROWS_SHOWN));
      state.page = Math.min(state.page, pages - 1);
      const first = state.page * ROWS_SHOWN;
      const rows = found.slice(first, first + ROWS_SHOWN);
      body.replaceChildren(...rows.flatMap(rowOf));
      const range = found.length ? `${first + 1} to ${first + rows.length} of ${found.length}` : "none";
      count.textContent = `${range}${found.length < table.rows.length ? ` (of ${table.rows.length} in all)` : ""}`;
      before.disabled = state.page === 0;
      after.disabled = state.page === pages - 1;
      heads.forEach((head, c) => {
        head.ariaSort = c === state.column ? (state.down ? "descending" : "ascending") : "none";
      });
    };
    before.addEventListener("click", () => { state.page -= 1; render(); });
    after.addEventListener("click", () => { state.page += 1; render(); });
    const heads = table.columns.map((name, c) => {
      const button = element("button", {type: "button", textContent: name});
      button.addEventListener("click", () => {
        state.down = state.column === c ? !state.down : false;
        state.column = c;
        state.page = 0;
        render();
      });
      const head = element("th", {}, button);
      head.scope = "col";
      return head;
    });
    const search = element("input", {type: "search", placeholder: "words that a row must have"});
    search.addEventListener("input", () => { state.filter = search.value; state.page = 0; render(); });
    const label = element("label", {}, "Filter ", search);
    const more = table.details_of.length ? [element("th", {textContent: "log"})] : [];
    holder.append(
      element("div", {className: "controls"}, label, before, after, count),
      element("div", {className: "scroll"}, element("table", {ariaLabel: caption},
        element("thead", {}, element("tr", {}, ...heads, ...more)), body)));
    render();
  };

  for (const [id, table] of Object.entries(content.tables)) sortableTable(id, table);
  drawFigures().catch((error) => {
    const trouble = document.getElementById("trouble");
    trouble.textContent = `The figures cannot be drawn in this browser: ${error.message}. `
      + "A browser of 2023 or later draws them (it must know DecompressionStream).";
    trouble.hidden = false;
  });
})();
