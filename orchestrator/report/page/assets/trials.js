// The table of trials, sorted, filtered and stepped through by keyboard; and the same trials as parallel coordinates.
"use strict";
(() => {
  const { data, element, colour, number, trialName, copy, chart } = report;
  const [NUMBER, STATE, MARK, KIND, KEY, NOTE, REPORTS] = [0, 1, 2, 3, 4, 5, 6];
  const FIRST_CELL = 7;
  const FIRST_ROWS = 100;
  const MAX_AXES = 12;

  function table(place, sweep) {
    const state = { sort: null, descending: false, filter: "", all: false, metrics: false, chosen: null };
    const columns = () => [
      { title: "status", at: STATE }, { title: "trial", at: NUMBER, numeric: true }, { title: "mark", at: MARK },
      ...(sweep.has_reports ? [{ title: "reports", at: REPORTS, numeric: true }] : []),
      ...sweep.columns.map((column, index) => ({ ...column, at: FIRST_CELL + index })).filter((column) => state.metrics || column.kind !== "metric"),
      { title: "note", at: NOTE },
    ];
    const texts = sweep.rows.map((row) => [trialName(row[NUMBER]), ...row.filter((cell, at) => cell !== null && at !== KEY && at !== KIND)].join(" ").toLowerCase());
    const matches = (row, index, word) => texts[index].includes(word) || (word.length > 3 && row[KEY].startsWith(word));
    const body = element("tbody");
    const head = element("thead");
    const count = element("span", { class: "muted", role: "status" });
    const more = element("button", { type: "button", onclick: () => { state.all = true; fill(); } });
    const filter = element("input", { type: "search", placeholder: "filter: words, or lr < 0.01", "aria-label": `Filter trials of ${sweep.name}`, oninput: (event) => { state.filter = event.target.value; state.all = false; fill(); } });
    const box = element("input", { type: "checkbox", onchange: (event) => { state.metrics = event.target.checked; title(); fill(); } });
    const hasMetrics = sweep.columns.some((column) => column.kind === "metric");

    // "lr < 0.01" compares a column; all other words have to stand somewhere in the row.
    function conditions(text) {
      const compared = [];
      const rest = text.replace(/([^\s<>=]+)\s*(<=|>=|=|<|>)\s*(\S+)/g, (whole, name, sign, value) => {
        const column = columns().concat(sweep.columns.map((each, index) => ({ ...each, at: FIRST_CELL + index })))
          .find((each) => each.title === name || each.id === name);
        if (!column) return whole;
        compared.push([column.at, sign, value]);
        return "";
      });
      return { compared, words: rest.toLowerCase().split(/\s+/).filter(Boolean) };
    }

    function holds(cell, sign, value) {
      if (cell === null || cell === "") return false;
      const wanted = Number(value);
      if (sign === "=" && (typeof cell !== "number" || Number.isNaN(wanted))) return String(cell).toLowerCase() === value.toLowerCase();
      if (typeof cell !== "number" || Number.isNaN(wanted)) return false;
      return { "<": cell < wanted, ">": cell > wanted, "<=": cell <= wanted, ">=": cell >= wanted, "=": cell === wanted }[sign];
    }

    function rows() {
      const { compared, words } = conditions(state.filter);
      const found = sweep.rows.filter((row, index) =>
        (state.chosen === null || state.chosen.has(row[NUMBER])) && words.every((word) => matches(row, index, word))
        && compared.every(([at, sign, value]) => holds(row[at], sign, value)));
      if (state.sort === null) return found;
      const turn = state.descending ? -1 : 1;
      const rank = (row) => row[state.sort];
      return found.slice().sort((a, b) => {
        const [one, other] = [rank(a), rank(b)];
        const [isOneMissing, isOtherMissing] = [one === null || one === "", other === null || other === ""];
        if (isOneMissing || isOtherMissing) return isOneMissing - isOtherMissing;
        return turn * (typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true }));
      });
    }

    function title() {
      head.replaceChildren(element("tr", {}, ...columns().map((column) => {
        const sorted = state.sort === column.at ? (state.descending ? "descending" : "ascending") : "none";
        return element("th", { class: column.numeric ? "num" : null, "aria-sort": sorted, title: column.id },
          element("button", { type: "button", onclick: () => sort(column.at) }, column.title));
      })));
    }

    function sort(at) {
      const again = state.sort === at;
      state.descending = again && !state.descending;
      state.sort = at;
      const place = [...head.querySelectorAll("button")].indexOf(document.activeElement);
      title();
      fill();
      if (place >= 0) head.querySelectorAll("button")[place].focus();
    }

    function fill() {
      const found = rows();
      const shown = state.all ? found : found.slice(0, FIRST_ROWS);
      const shape = columns();
      body.replaceChildren(...shown.map((row) => element("tr", { tabindex: "0", "data-key": row[KEY], "aria-label": `${trialName(row[NUMBER])}; Enter copies its key` },
        ...shape.map((column) => {
          const value = row[column.at];
          if (column.at === STATE) return element("td", {}, element("span", { class: "word", "data-word": value }, value));
          if (column.at === NUMBER) return element("th", { scope: "row", class: "num" }, trialName(value));
          if (column.at === MARK) return element("td", { class: value ? `mark-${value}` : null }, value);
          if (column.at === NOTE) return element("td", { class: "note" }, value);
          return element("td", { class: column.numeric ? "num" : null }, number(value));
        }))));
      count.textContent = `${found.length} of ${sweep.rows.length} trials`;
      more.textContent = `show all ${found.length}`;
      more.hidden = shown.length === found.length;
    }

    function pick(event) {
      const row = event.target.closest("tr[data-key]");
      if (row && !String(getSelection())) copy(row.dataset.key, `${row.dataset.key.slice(0, 8)}: the key of ${row.querySelector("th").textContent}`);
    }

    body.addEventListener("click", pick);
    body.addEventListener("keydown", (event) => {
      const row = event.target.closest("tr");
      const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
      if (next) { event.preventDefault(); next.focus(); }
      if (event.key === "Enter") pick(event);
    });
    place.append(
      element("div", { class: "controls" }, filter, hasMetrics ? element("label", {}, box, " all metrics") : null, count, more),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Trials of sweep ${sweep.name}` }, element("table", {}, head, body)),
    );
    title();
    fill();
    return (numbers) => { state.chosen = numbers; fill(); };
  }

  function parallel(place, sweep, choose) {
    const columns = sweep.columns.map((column, index) => ({ ...column, at: FIRST_CELL + index })).filter((column) => column.kind !== "metric").slice(0, MAX_AXES);
    const ordered = [...columns.filter((column) => column.kind === "value"), ...columns.filter((column) => column.kind !== "value")];
    const rows = sweep.rows.filter((row) => ordered.some((column) => row[column.at] !== null));
    if (ordered.length < 2 || !rows.length) return void place.remove();
    const width = Math.max(place.parentElement.clientWidth, ordered.length * 95);
    // The best is drawn last, above the others.
    const tone = (row) => row[MARK] === "best" ? "best" : row[KIND] === "front" ? "front" : row[KIND] === "off" || row[MARK] === "off" ? "off" : "other";
    const styles = { other: [1, 0.35], off: [1, 0.5], front: [2, 0.9], best: [3, 1] };
    const layers = Object.entries(styles)
      .map(([name, [lineWidth, opacity]]) => ({ tone: name, width: lineWidth, opacity, rows: rows.filter((row) => tone(row) === name) }))
      .filter((layer) => layer.rows.length);
    const scroll = element("div", { class: "scroll" });
    place.replaceWith(scroll);
    place.style.width = `${width}px`;
    scroll.append(place, element("p", { class: "muted" }, "Drag along an axis to keep only what lies there; the table follows. A click on the axis lets go. Better is up."));
    const distinct = (column) => [...new Set(rows.map((row) => row[column.at]).filter((cell) => cell !== null).map(String))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const upside = (column) => column.direction === "minimize" ? { inverse: true, nameLocation: "start" } : {};
    chart(place, `Parallel coordinates of ${rows.length} trials of sweep ${sweep.name}`, () => ({
      parallel: { left: 60, right: 80, top: 44, bottom: 24, parallelAxisDefault: {
        nameTextStyle: { color: colour("fg"), fontSize: 11, width: 90, overflow: "truncate" }, nameGap: 14, nameTruncate: { maxWidth: 100 },
        axisLabel: { color: colour("muted"), fontSize: 10, width: 80, overflow: "truncate" }, axisLine: { lineStyle: { color: colour("line"), width: 1.5 } },
        areaSelectStyle: { color: colour("accent"), borderColor: colour("accent"), opacity: 0.25 },
      } },
      parallelAxis: ordered.map((column, dim) => column.numeric
        ? { dim, name: column.title, type: "value", scale: true, ...upside(column) }
        : { dim, name: column.title, type: "category", data: distinct(column) }),
      series: layers.map(({ tone, width: lineWidth, opacity, rows: members }) => ({
        type: "parallel", realtime: false, inactiveOpacity: 0.03, activeOpacity: opacity, lineStyle: { color: colour(tone), width: lineWidth, opacity },
        data: members.map((row) => ordered.map((column) => row[column.at] === null ? "-" : column.numeric ? row[column.at] : String(row[column.at]))),
      })),
    }), { onReady: (made) => made.on("axisareaselected", () => {
      const model = made.getModel();
      if (ordered.every((_, dim) => !model.getComponent("parallelAxis", dim).activeIntervals.length)) return choose(null);
      const kept = layers.flatMap(({ rows: members }, index) =>
        model.getSeriesByIndex(index).getRawIndicesByActiveState("active").map((at) => members[at][NUMBER]));
      choose(new Set(kept));
    }) });
  }

  for (const place of document.querySelectorAll(".trials[data-sweep]")) {
    const sweep = data.sweeps[place.dataset.sweep];
    const choose = table(place, sweep);
    const picture = document.querySelector(`.parallel[data-sweep="${place.dataset.sweep}"]`);
    if (picture) parallel(picture, sweep, choose);
  }
})();
