// What a run does right now, above its report; the report is loaded anew when something has ended, unless somebody is typing.
"use strict";
(() => {
  const { element } = report;
  const RELOAD_AT_MOST_EVERY_MS = 5000;
  const strip = document.getElementById("live");
  const loaded = Date.now();
  let seen = null;

  const kept = sessionStorage.getItem("theme");
  if (kept) { document.documentElement.dataset.theme = kept; report.redraw(); }

  function reload() {
    sessionStorage.setItem("theme", document.documentElement.dataset.theme ?? "");
    location.reload();
  }

  function reloadSoon() {
    const typing = document.activeElement?.matches("input, select, textarea");
    const wait = RELOAD_AT_MOST_EVERY_MS - (Date.now() - loaded);
    if (typing || wait > 0) setTimeout(reloadSoon, Math.max(wait, 1000));
    else reload();
  }

  const stream = new EventSource(`${location.pathname}/stream`);
  stream.addEventListener("message", (event) => {
    const now = JSON.parse(event.data);
    const rows = now.running.map((node) => element("li", {},
      element("progress", { max: 1, value: node.fraction, "aria-label": node.node }),
      ` ${node.node} `, element("span", { class: "muted" }, [node.metric, node.left].filter(Boolean).join(", "))));
    const link = now.dashboard.startsWith("http://127.0.0.1:") ? element("a", { href: now.dashboard, rel: "noreferrer" }, "Ray's dashboard") : null;
    strip.replaceChildren(element("p", {}, now.counts, " ", link), element("ul", { class: "running" }, ...rows));
    if (seen !== null && now.num_ended !== seen) reloadSoon();
    seen = now.num_ended;
    if (!["starting", "running"].includes(now.state)) { stream.close(); reloadSoon(); }
  });
})();
