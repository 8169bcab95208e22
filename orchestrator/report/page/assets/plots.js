// The trade-offs of trials and of evaluations: one chart for each quantity that accuracy is held against.
"use strict";
(() => {
  const { data, element, colour, number, trialName, copy, chart, axis, tooltip, tip } = report;
  const [NUMBER, , , KIND, KEY, NOTE] = [0, 1, 2, 3, 4, 5];
  const FIRST_CELL = 7;
  const KINDS = {
    off: { symbol: "path://M0 0L10 10M10 0L0 10", size: 9, name: "beyond a constraint" },
    dominated: { symbol: "circle", size: 7, name: "dominated" },
    front: { symbol: "circle", size: 10, name: "not dominated" },
    best: { symbol: "path://M5 0L6.5 3.5L10 3.8L7.3 6.2L8.1 10L5 8L1.9 10L2.7 6.2L0 3.8L3.5 3.5Z", size: 18, name: "best" },
  };
  const kindColour = (kind) => colour(kind === "dominated" ? "other" : kind);

  function limitLines(limits, axes, panel) {
    return limits.map((limit) => ({
      [limit.axis === "x" ? "xAxis" : "yAxis"]: limit.value * axes[panel[limit.axis]].factor,
      label: {
        formatter: `at ${limit.is_lowest ? "least" : "most"} ${number(limit.value * axes[panel[limit.axis]].factor)}`,
        position: "insideEndTop", color: colour("limit"), fontSize: 11,
      },
    }));
  }

  const lines = (found) => ({
    silent: true, symbol: "none", precision: -1, lineStyle: { color: colour("limit"), type: "dashed", width: 1.5 }, data: found,
  });

  // Lines of constraints, and unseen points that make the axes reach to them where they are not far off.
  function reach(panel, axes, points) {
    const known = points.filter(([x, y]) => x !== null && y !== null);
    const [x0, y0] = known[0] ?? [0, 0];
    const unseen = panel.limits.flatMap((limit) => {
      const at = limit.axis === "x" ? 0 : 1;
      const values = known.map((point) => point[at]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const place = limit.value * axes[panel[limit.axis]].factor;
      const isNear = place >= low - 2 * (high - low || 1) && place <= high + 2 * (high - low || 1);
      return isNear ? [limit.axis === "x" ? [place, y0] : [x0, place]] : [];
    });
    return {
      type: "scatter", silent: true, symbolSize: 0, z: 0, tooltip: { show: false }, data: [[x0, y0], ...unseen],
      markLine: lines(limitLines(panel.limits, axes, panel)),
    };
  }

  function axisText(axes, name, isNarrow = false) {
    const { text, node, direction } = axes[name];
    if (isNarrow) return text;
    const wanted = direction ? `, ${direction === "maximize" ? "more" : "less"} is better` : "";
    return `${text}${node ? ` of ${node}` : ""}${wanted}`;
  }

  function frontLine(rows, x, y, isLess) {
    const front = rows.filter((row) => ["front", "best"].includes(row[KIND])).sort((a, b) => x(a) - x(b));
    return front.length < 2 ? [] : [{
      type: "line", data: front.map((row) => [x(row), y(row)]), step: isLess ? "end" : "start", symbol: "none", silent: true,
      lineStyle: { color: colour("front"), width: 1.5 }, z: 1,
    }];
  }

  function soFar(rows, x, y, isMore) {
    const reached = [];
    for (const row of rows.filter((each) => each[KIND] !== "off").sort((a, b) => x(a) - x(b))) {
      const last = reached.length ? reached.at(-1)[1] : y(row);
      reached.push([x(row), isMore ? Math.max(last, y(row)) : Math.min(last, y(row))]);
    }
    return [{ type: "line", data: reached, step: "end", symbol: "none", silent: true, lineStyle: { color: colour("front"), width: 1.5 }, z: 1 }];
  }

  const take = (row) => copy(row[KEY], `${row[KEY].slice(0, 8)}: the key of ${trialName(row[NUMBER])}`);

  function sweepPanels(place, sweep) {
    const { axes, panels, y: upright } = sweep.plot;
    const column = Object.fromEntries(sweep.columns.map((each, index) => [each.id, FIRST_CELL + index]));
    const rows = sweep.rows.filter((row) => row[KIND]);
    if (!rows.length) return void place.append(element("p", { class: "muted" }, "No trial has been measured."));
    const shown = sweep.columns.map((each, index) => [each, FIRST_CELL + index]).filter(([each]) => each.kind !== "metric");
    const about = (row) => tip(
      `${trialName(row[NUMBER])} ${KINDS[row[KIND]].name}`,
      shown.filter(([, index]) => row[index] !== null).map(([each, index]) => [each.title, row[index]]), row[NOTE],
    );
    const value = (name) => (row) => row[column[name]] === null ? null : row[column[name]] * axes[name].factor;
    for (const panel of panels) {
      const x = panel.x === null ? (row) => row[NUMBER] : value(panel.x);
      const y = value(upright);
      const title = panel.x === null ? "trial, in the order of proposal" : axisText(axes, panel.x);
      const isFront = panel.x !== null && Object.values(axes).filter((each) => each.direction).length === 2 && axes[panel.x].direction;
      const box = element("div", { class: "plot" });
      place.append(box);
      const isNarrow = box.clientWidth < 460;
      chart(box, `${axes[upright].text} against ${title}, ${rows.length} trials of sweep ${sweep.name}; the table of trials has the figures`, () => ({
        grid: { left: 62, right: 18, top: 22, bottom: 48 },
        tooltip: tooltip((point) => point.value.length > 2 ? about(rows[point.value[2]]) : tip(point.data.label, [[axes[upright].text, point.value[1]], [title, point.value[0]]])),
        dataZoom: [{ type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false }],
        xAxis: axis(panel.x === null ? title : axisText(axes, panel.x, isNarrow), { nameGap: 28, boundaryGap: ["3%", "3%"] }),
        yAxis: axis(axisText(axes, upright, isNarrow), { nameGap: 46 }),
        series: [
          ...(isFront ? frontLine(rows, x, y, axes[panel.x].direction === "minimize") : []),
          ...(panel.x === null ? soFar(rows, x, y, axes[upright].direction === "maximize") : []),
          reach(panel, axes, rows.map((row) => [x(row), y(row)])),
          ...Object.entries(KINDS).map(([kind, mark], index) => ({
            type: "scatter", name: mark.name, symbol: mark.symbol, symbolSize: mark.size, z: 2 + index, cursor: "pointer",
            itemStyle: kind === "off"
              ? { color: "transparent", borderColor: kindColour(kind), borderWidth: 1.6 }
              : { color: kindColour(kind), borderColor: colour("bg"), borderWidth: kind === "dominated" ? 0 : 1 },
            data: rows.flatMap((row, at) => row[KIND] === kind && x(row) !== null && y(row) !== null ? [[x(row), y(row), at]] : []),
          })),
          {
            type: "scatter", name: "baseline", symbol: "diamond", symbolSize: 13, z: 6, itemStyle: { color: colour("baseline") },
            data: panel.baselines.map((base) => ({
              value: [base.x * axes[panel.x].factor, base.y * axes[upright].factor], label: `baseline ${base.label}`,
            })),
          },
        ],
      }), { onClick: (point) => point.value.length > 2 && take(rows[point.value[2]]) });
    }
  }

  function resultPanels(place, plot) {
    const { axes, panels, points, y: upright } = plot;
    const factor = (name) => axes[name].factor;
    const about = (point) => tip(point.label, Object.keys(axes).map((name) => [axes[name].text, point.values[name] === null ? null : point.values[name] * factor(name)]));
    for (const panel of panels) {
      const drawn = points.filter((point) => point.values[panel.x] !== null && point.values[upright] !== null);
      if (!drawn.length) continue;
      const at = (point) => [point.values[panel.x] * factor(panel.x), point.values[upright] * factor(upright)];
      const across = drawn.map((point) => at(point)[0]);
      const middle = (Math.min(...across) + Math.max(...across)) / 2;
      const box = element("div", { class: "plot" });
      place.append(box);
      chart(box, `${axes[upright].text} against ${axes[panel.x].text} of ${drawn.length} evaluations; the table of figures has them`, () => ({
        grid: { left: 62, right: 24, top: 22, bottom: 48 },
        tooltip: tooltip((point) => about(points[point.data.index])),
        xAxis: axis(axisText(axes, panel.x), { nameGap: 28, boundaryGap: ["12%", "12%"] }),
        yAxis: axis(axisText(axes, upright), { nameGap: 46 }),
        series: [
          {
            type: "custom", silent: true, z: 1, encode: { x: 0, y: [1, 2] },
            data: drawn.filter((point) => point.low !== null && point.high !== null)
              .map((point) => [at(point)[0], point.low * factor(upright), point.high * factor(upright)]),
            renderItem: (_, api) => {
              const [x, low] = api.coord([api.value(0), api.value(1)]);
              const [, high] = api.coord([api.value(0), api.value(2)]);
              const line = (x1, y1, x2, y2) => ({ type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colour("other"), lineWidth: 1.2 } });
              return { type: "group", children: [line(x, low, x, high), line(x - 4, low, x + 4, low), line(x - 4, high, x + 4, high)] };
            },
          },
          {
            type: "scatter", z: 3, cursor: "pointer", labelLayout: { hideOverlap: true, moveOverlap: "shiftY" },
            label: { show: true, formatter: (point) => cut(drawn[point.dataIndex].label), color: colour("fg"), fontSize: 11 },
            data: drawn.map((point) => ({
              label: { position: at(point)[0] < middle ? "right" : "left" }, // away from the ticks, and beside the interval
              value: at(point), index: points.indexOf(point), symbol: point.is_baseline ? "diamond" : "circle", symbolSize: point.is_baseline ? 13 : 10,
              itemStyle: { color: colour(point.is_baseline ? "baseline" : "front") },
            })),
          },
        ],
      }), { onClick: (point) => point.data && copy(points[point.data.index].key, `${points[point.data.index].key.slice(0, 8)}: the key of ${points[point.data.index].label}`) });
    }
  }

  const cut = (text) => text.length > 24 ? `${text.slice(0, 22)}…` : text;

  for (const place of document.querySelectorAll("#plots .plots[data-sweep]")) {
    const sweep = data.sweeps[place.dataset.sweep];
    if (sweep.plot) sweepPanels(place, sweep);
  }
  const results = document.getElementById("results-plots");
  if (results) resultPanels(results, data.results);
})();
