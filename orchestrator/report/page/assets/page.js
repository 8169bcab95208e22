// What holds the page together: light and dark, copying commands, details of the graph's boxes, width and print.
"use strict";
(() => {
  const { data, element, number, seconds, copy, isDark, drawAll, redraw, resize } = report;
  const root = document.documentElement;
  const theme = document.getElementById("theme");

  function name() {
    theme.textContent = isDark() ? "light" : "dark";
    theme.setAttribute("aria-label", `Show the page in ${theme.textContent} colours`);
    theme.setAttribute("aria-pressed", String(isDark()));
  }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); redraw(); });
  name();

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button.dataset.copy, "the command");
  });

  function details(box) {
    const node = data.nodes[box.dataset.node];
    for (const other of document.querySelectorAll(".node")) other.setAttribute("aria-pressed", String(other === box));
    const words = Object.entries(node.words).map(([word, count]) => `${count} ${word}`).join(", ");
    const facts = [
      ["stage", node.stage], ["status", node.instances > 1 ? words : node.word], ["took", node.seconds ? seconds(node.seconds) : null],
      ["avoided", node.avoided_s ? seconds(node.avoided_s) : null], ["attempt", node.attempt || null],
      ["size", node.size_bytes ? `${number(node.size_bytes)} bytes` : null], ["key", node.key], ["note", node.note || null],
    ].filter(([, value]) => value !== null && value !== undefined);
    document.getElementById("node-details").replaceChildren(
      element("h3", {}, node.node),
      element("dl", { class: "environment" }, ...facts.flatMap(([title, value]) => [element("dt", {}, title), element("dd", {}, String(value))])),
      ...(node.key ? [element("button", { type: "button", "data-copy": node.key }, "copy key")] : []),
    );
  }
  for (const box of document.querySelectorAll(".node")) {
    box.addEventListener("focus", () => details(box));
    box.addEventListener("click", () => details(box));
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); details(box); }
    });
  }

  for (const graph of document.querySelectorAll(".graph")) graph.scrollLeft = (graph.scrollWidth - graph.clientWidth) / 2; // to its roots

  let timer = 0;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(resize, 120); });
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme ?? "";
    root.dataset.theme = "light";
    drawAll();
    redraw();
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
    redraw();
  });
  root.dataset.ready = "true";
})();
