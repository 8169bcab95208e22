// The timeline, and the pictures of each method: curves over epochs, tokens per block, patches on images, density per layer.
"use strict";
(() => {
  const { data, element, colour, seconds, chart, axis, tooltip, tip } = report;
  const PALETTE = ["front", "best", "baseline", "shared", "off", "hit", "limit", "quiet"];
  const TINTS = ["#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#e69f00"];
  const STATES = { done: "done", shared: "shared", failed: "fail", cancelled: "quiet", waiting: "quiet", running: "run" };
  const tone = (index) => colour(PALETTE[index % PALETTE.length]);
  const DASHES = ["solid", "dashed", "dotted"];
  const dash = (index) => DASHES[Math.floor(index / PALETTE.length) % DASHES.length];

  function timeline(place) {
    const { workers, nodes, attempts } = data.timeline;
    place.style.height = `${Math.min(640, 90 + workers.length * 34)}px`;
    const narrow = place.clientWidth < 600;
    chart(place, `${attempts.length} attempts on ${workers.length} workers; the tables of nodes and workers have the figures`, () => ({
      grid: { left: narrow ? 12 : 190, right: 20, top: 8, bottom: 44, containLabel: false },
      tooltip: tooltip(({ value }) => tip(nodes[value[1]], [["state", value[5]], ["attempt", value[2]], ["began after", seconds(value[3])], ["took", seconds(value[4] - value[3])], ["worker", workers[value[0]]]])),
      dataZoom: [{ type: "inside", xAxisIndex: 0, filterMode: "none" }],
      xAxis: axis("since the run began", { nameGap: 26, scale: false, min: 0, axisLabel: { color: colour("muted"), formatter: seconds, hideOverlap: true } }),
      yAxis: {
        type: "category", data: workers, inverse: true, axisTick: { show: false }, axisLine: { lineStyle: { color: colour("line") } },
        axisLabel: { show: !narrow, color: colour("muted"), width: 178, overflow: "truncate" },
      },
      series: [{
        type: "custom", data: attempts, encode: { x: [3, 4], y: 0 }, clip: true,
        renderItem: (params, api) => {
          const [x1, y] = api.coord([api.value(3), api.value(0)]);
          const [x2] = api.coord([api.value(4), api.value(0)]);
          const height = Math.min(22, api.size([0, 1])[1] * 0.7);
          const width = Math.max(1.5, x2 - x1);
          const label = nodes[api.value(1)];
          const fits = width > label.length * 6.2 + 8;
          return {
            type: "rect", shape: { x: x1, y: y - height / 2, width, height, r: Math.min(3, width / 2) },
            style: { fill: colour(STATES[attempts[params.dataIndex][5]] || "quiet"), stroke: colour("bg"), lineWidth: width > 4 ? 1 : 0 },
            textContent: fits ? { style: { text: label, fill: colour("bg"), fontSize: 11 } } : undefined,
            textConfig: { position: "inside" },
          };
        },
      }],
    }));
  }

  function lineChart(place, label, { x, y, series }) {
    chart(place, label, () => ({
      grid: { left: 62, right: 18, top: series.length > 1 ? 54 : 34, bottom: 44 },
      legend: { type: "plain", top: 0, left: 8, right: 8, itemHeight: 8, itemWidth: 16, textStyle: { color: colour("fg"), fontSize: 11, width: 130, overflow: "truncate" }, data: series.slice(0, 6).map((each) => each.label) },
      tooltip: tooltip((points) => tip(`${x} ${points[0].axisValueLabel ?? points[0].value[0]}`, points.filter((point) => point.value[1] !== undefined).slice(0, 12).map((point) => [point.seriesName, point.value[1]])), { trigger: "axis" }),
      xAxis: axis(x, { nameGap: 28, scale: false, minInterval: 1 }),
      yAxis: axis(y, { nameGap: 46 }),
      series: series.map((each, index) => ({
        type: "line", name: each.label, data: each.points, symbol: each.points.length > 40 ? "none" : "circle", symbolSize: 4, step: each.step,
        lineStyle: { width: each.is_best ? 2.2 : 1.2, type: dash(index), opacity: each.is_best ? 1 : 0.65 },
        itemStyle: { color: tone(index) }, color: tone(index), emphasis: { focus: "series" },
      })),
    }));
  }

  function curves(place) {
    for (const curve of data.curves) {
      const holder = element("div", {}, element("h3", {}, curve.title), element("div", { class: "plot" }));
      place.append(holder);
      const step = curve.figure === "kept_combinations" ? "end" : undefined;
      lineChart(holder.lastChild, `${curve.title}: ${curve.series.length} curves over epochs`, {
        x: "epoch", y: curve.y, series: curve.series.map((each) => ({ ...each, step })),
      });
    }
  }

  function tokens(place) {
    const depth = Math.max(...data.tokens.map((each) => each.kept.length));
    lineChart(place, `tokens that leave each of ${depth} blocks, of ${data.tokens.length} models`, {
      x: "block", y: "tokens, class token counted",
      series: data.tokens.map((each) => ({ ...each, points: each.kept.map((kept, block) => [block, kept]) })),
    });
  }

  // A row for each model, a cell for each layer: the darker, the more of its weights are left.
  function layers(place) {
    const longest = data.layers.reduce((one, other) => other.layers.length > one.layers.length ? other : one);
    const cells = data.layers.flatMap((each, model) => each.layers.map(([, density, bits, weights], layer) => [layer, model, density, bits, weights]));
    const narrow = place.clientWidth < 600;
    place.style.height = `${110 + data.layers.length * 30}px`;
    chart(place, `density of ${longest.layers.length} layers of ${data.layers.length} models, 0 to 1`, () => ({
      grid: { left: narrow ? 12 : 190, right: 20, top: 8, bottom: 88 },
      tooltip: tooltip(({ value }) => tip(`${data.layers[value[1]].label}: ${data.layers[value[1]].layers[value[0]][0]}`, [["density", value[2]], ["weights", value[4]], ["bits", value[3]]])),
      xAxis: {
        type: "category", data: longest.layers.map((row) => row[0]), axisTick: { show: false }, axisLine: { show: false },
        axisLabel: { color: colour("muted"), rotate: 40, fontSize: 10, width: 110, overflow: "truncate" },
      },
      yAxis: {
        type: "category", data: data.layers.map((each) => each.label), inverse: true, axisTick: { show: false }, axisLine: { show: false },
        axisLabel: { show: !narrow, color: colour("muted"), width: 178, overflow: "truncate" },
      },
      series: [{
        type: "custom", data: cells, encode: { x: 0, y: 1 },
        renderItem: (_, api) => {
          const [x, y] = api.coord([api.value(0), api.value(1)]);
          const [width, height] = api.size([1, 1]);
          const density = api.value(2);
          const text = width > 34 ? (density === 1 ? "1" : density.toFixed(2)) + (api.value(3) < 32 ? ` · ${api.value(3)}b` : "") : "";
          return {
            type: "rect", shape: { x: x - width / 2 + 1, y: y - height / 2 + 1, width: width - 2, height: height - 2, r: 2 },
            style: { fill: colour("front"), opacity: 0.08 + 0.72 * density, stroke: colour("line") },
            textContent: text ? { style: { text, fill: density > 0.55 ? colour("bg") : colour("fg"), fontSize: 10 } } : undefined,
            textConfig: { position: "inside" },
          };
        },
      }],
    }));
  }

  // One image: its pixels, dark where the patch is gone, outlined where tokens meet.
  function patches(image, grid, places, side) {
    const [height, width, channels] = image.shape;
    const bytes = Uint8Array.from(atob(image.pixels), (letter) => letter.charCodeAt(0));
    const small = element("canvas", { width, height });
    const pixels = new ImageData(width, height);
    for (let index = 0; index < width * height; index += 1) {
      for (let channel = 0; channel < 3; channel += 1) pixels.data[index * 4 + channel] = bytes[index * channels + (channels === 1 ? 0 : channel)];
      pixels.data[index * 4 + 3] = 255;
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    const drawn = element("canvas", { width: side, height: Math.round((side * height) / width) });
    const context = drawn.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, drawn.width, drawn.height);
    if (!places) return drawn;
    const [rows, columns] = grid;
    const [high, wide] = [drawn.height / rows, drawn.width / columns];
    const at = (row, column) => row < rows && column < columns ? places[row * columns + column] : null;
    context.lineWidth = 1.5;
    const members = new Map();
    for (const token of places) members.set(token, (members.get(token) ?? 0) + 1);
    const merged = [...members].filter(([token, count]) => token >= 0 && count > 1).map(([token]) => token);
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const here = at(row, column);
        if (here === -1) {
          context.fillStyle = "rgba(20, 60, 120, 0.85)";
          context.fillRect(column * wide, row * high, wide, high);
        }
        if (merged.includes(here)) {
          context.fillStyle = `${TINTS[merged.indexOf(here) % TINTS.length]}73`;
          context.fillRect(column * wide, row * high, wide, high);
        }
        context.strokeStyle = "#e69f00";
        context.beginPath();
        if (at(row, column + 1) !== null && at(row, column + 1) !== here) { context.moveTo((column + 1) * wide, row * high); context.lineTo((column + 1) * wide, (row + 1) * high); }
        if (at(row + 1, column) !== null && at(row + 1, column) !== here) { context.moveTo(column * wide, (row + 1) * high); context.lineTo((column + 1) * wide, (row + 1) * high); }
        context.stroke();
      }
    }
    return drawn;
  }

  function images(place) {
    for (const each of data.images.slice(0, 4)) {
      place.append(element("h4", {}, each.label));
      for (const image of each.images) {
        const row = element("div", { class: "patches" });
        const figure = (canvas, text) => row.append(element("figure", {}, canvas, element("figcaption", {}, text)));
        figure(patches(image, each.grid, null, 96), `class ${image.class}`);
        image.blocks.forEach((places, block) => {
          const left = new Set(places.filter((token) => token >= 0)).size + 1;
          figure(patches(image, each.grid, places, 96), `block ${block}: ${left}`);
        });
        place.append(row);
      }
    }
  }

  const draw = { "timeline-plot": timeline, curves, tokens, layers, images };
  for (const [id, paint] of Object.entries(draw)) {
    const place = document.getElementById(id);
    if (place) paint(place);
  }
})();
