// What all scripts of the page share: the data, elements, colours, numbers, copying, charts that follow theme and width.
// Texts of the data reach the page as text nodes only, never as markup.
"use strict";
const report = (() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const charts = [];

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function number(value) {
    if (value === null || value === undefined) return "-";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    const size = Math.abs(value);
    return size >= 1e5 || size < 1e-4 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
  }

  function seconds(value) {
    if (value < 1) return `${value.toFixed(2)}s`;
    if (value < 59.95) return `${value.toFixed(1)}s`;
    const minutes = Math.floor(Math.round(value) / 60);
    if (minutes < 60) return `${minutes}m${String(Math.round(value) % 60).padStart(2, "0")}s`;
    return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}m`;
  }

  const trialName = (trial) => `t${String(trial).padStart(4, "0")}`;

  let toastTimer = 0;
  function say(text) {
    const toast = document.getElementById("toast");
    toast.textContent = text;
    toast.classList.add("shown");
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => toast.classList.remove("shown"), 2500);
  }

  function copy(text, what = text) {
    if (!text) return say("nothing to copy: it has no file");
    const done = () => say(`copied ${what}`);
    const byHand = () => {
      const area = element("textarea", { readonly: true, style: "position:fixed;opacity:0" });
      area.value = text;
      document.body.append(area);
      area.select();
      const worked = document.execCommand("copy");
      area.remove();
      worked ? done() : say(text);
    };
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(done, byHand);
    else byHand();
  }

  // A chart that is drawn when it comes near to the window, and whose option is made anew when the theme changes.
  // `label` says what a picture shows to those who do not see it.
  const waiting = new Map();
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawNow(entry.target);
  }, { rootMargin: "400px" });

  function chart(place, label, makeOption, { onClick = null, onReady = null } = {}) {
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", label);
    waiting.set(place, () => {
      const made = echarts.init(place, null, { renderer: "canvas" });
      const draw = () => made.setOption({ ...base(), ...makeOption() }, { notMerge: true });
      draw();
      if (onClick) made.on("click", onClick);
      if (onReady) onReady(made);
      charts.push({ made, draw });
    });
    near.observe(place);
  }

  function drawNow(place) {
    const draw = waiting.get(place);
    near.unobserve(place);
    waiting.delete(place);
    if (draw) draw();
  }

  function drawAll() {
    for (const place of [...waiting.keys()]) drawNow(place);
  }

  const base = () => ({
    animation: false,
    backgroundColor: "transparent",
    textStyle: { color: colour("fg"), fontFamily: "system-ui, sans-serif" },
  });

  const axis = (name, extra = {}) => ({
    type: "value", name, nameLocation: "middle", scale: true,
    nameTextStyle: { color: colour("muted"), fontSize: 12 },
    axisLabel: { color: colour("muted"), formatter: short, hideOverlap: true },
    axisLine: { show: true, lineStyle: { color: colour("line") } },
    splitLine: { lineStyle: { color: colour("line"), opacity: 0.6 } },
    min: ({ min, max }) => min >= 0 && min < 0.15 * (max - min) ? 0 : null, // no room below zero for what cannot be there
    ...extra,
  });

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("e+", "e");
    return size >= 1000 ? value.toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  }

  const tooltip = (formatter, extra = {}) => ({
    trigger: "item", confine: true, backgroundColor: colour("bg"), borderColor: colour("line"),
    textStyle: { color: colour("fg") }, formatter, ...extra,
  });

  function tip(title, rows, note = "") {
    const body = element("table", {}, ...rows.map(([name, value]) =>
      element("tr", {}, element("td", {}, String(name)), element("td", {}, number(value)))));
    return element("div", { class: "tip" }, element("b", {}, title), body, note ? element("span", {}, note) : null);
  }

  function redraw() {
    for (const { draw } of charts) draw();
  }

  function resize() {
    for (const { made } of charts) made.resize();
  }

  return { data, element, colour, isDark, number, seconds, trialName, say, copy, chart, axis, tooltip, tip, charts, drawAll, redraw, resize };
})();
