// Draws charts with uPlot from the tables behind them. What is pointed at stands in the legend; dragging zooms in, and a
// double click shows everything again. Where a part of the page is renewed, its charts go on with their zoom.
"use strict";
(() => {
  const HEIGHT = 210;
  const FEWEST = 0.008; // of the height that an amount above zero has at least, so that one failure among many is seen
  const drawn = new Map(); // by the id of the figure: the plot, the names of its series, and the values of its table

  const style = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();
  const two = (number) => String(number).padStart(2, "0");
  const short = (value) => {
    for (const [size, letter] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
      if (value >= size) return `${+(value / size).toPrecision(4)}${letter}`;
    }
    return `${+value.toPrecision(4)}`;
  };
  const moment = (seconds) => {
    const at = new Date(seconds * 1000);
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  };
  // uPlot's: the least step, what is written, and what else where a year, a month, a day, an hour or a minute begins
  const DAY = "\n{D} {MMM}";
  const YEAR = "\n{D} {MMM} {YYYY}";
  const TIMES = [
    [31_536_000, "{YYYY}", null, null, null, null, null, null, 1],
    [2_419_200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86_400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", YEAR, null, DAY, null, null, null, 1],
    [0.001, "{HH}:{mm}:{ss}", YEAR, null, DAY, null, null, null, 1],
  ];

  const read = (figure) => {
    const heads = [...figure.querySelectorAll("thead th[data-kind]")];
    const rows = [...figure.querySelectorAll("tbody tr")];
    const value = (cell) => (cell.textContent === "–" ? null : Number(cell.textContent.replaceAll(",", "")));
    return {
      heads,
      times: rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000),
      values: heads.map((_, place) => rows.map((row) => value(row.cells[place + 1]))),
    };
  };

  // What uPlot draws: bars stand on the sums of those before them, so the last kind comes first and the others over it.
  const data = (form, { times, values }) => {
    if (form !== "bars") return [times, ...values];
    const most = Math.max(...times.map((_, at) => values.reduce((sum, one) => sum + one[at], 0)));
    const floor = times.map(() => 0);
    const sums = values.map((one) =>
      one.map((value, at) => (floor[at] += value && Math.max(value, most * FEWEST))),
    );
    return [times, ...sums.reverse()];
  };

  const options = (figure, width, { heads, times }, entry) => {
    const { form, seconds } = figure.dataset;
    const bars = form === "bars";
    const line = { stroke: style(figure, "--line"), width: 1 };
    const axis = {
      stroke: style(figure, "--quiet"),
      font: `12px ${style(figure, "font-family")}`,
      grid: line,
      ticks: { ...line, size: 4 },
    };
    const series = heads.map((head, place) => {
      const colour = style(head, "--kind");
      const shown = { label: head.textContent, stroke: colour, spanGaps: true };
      shown.value = (plot, value, _, at) => (at == null ? "–" : (entry.values[place][at]?.toLocaleString("en") ?? "–"));
      if (bars) return { ...shown, fill: colour, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 60], align: 1 }) };
      if (form === "points") return { ...shown, width: 1, points: { show: true, size: 7, fill: colour } };
      return { ...shown, width: 1.5, fill: place ? undefined : `${colour}22` };
    });
    if (bars) series.reverse();
    return {
      width,
      height: HEIGHT,
      padding: [8, 26, 0, 0],
      series: [{ label: "Time", value: (_, at) => (at == null ? "–" : moment(at)) }, ...series],
      axes: [
        { ...axis, space: 64, values: TIMES },
        { ...axis, size: 54, values: (_, ticks) => ticks.map(short) },
      ],
      scales: {
        x: {
          range: ({ data: [times] }, first, last) => {
            const end = times.length === 1 ? first : last; // of a single time uPlot makes a span of years
            return bars ? [first, end + Number(seconds)] : first === end ? [first - 60, end + 60] : [first, end];
          },
        },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.06 : 1] },
      },
      cursor: { y: false },
    };
  };

  const renew = (figure, entry, values) => {
    const { plot } = entry;
    const { min, max } = plot.scales.x;
    const zoomed = min > plot.data[0][0] || max < plot.data[0].at(-1);
    plot.setData(data(figure.dataset.form, values), !zoomed);
    if (zoomed) plot.setScale("x", { min, max });
  };

  const fit = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      const plot = drawn.get(target.parentElement?.id)?.plot;
      if (plot?.root.parentElement === target && target.clientWidth && plot.width !== target.clientWidth) {
        plot.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    }
  });

  const draw = (figure) => {
    const place = figure.querySelector(".drawn");
    if (place.firstChild) return;
    const found = read(figure);
    const kinds = found.heads.map((head) => head.dataset.kind).join();
    let entry = drawn.get(figure.id);
    if (entry?.kinds === kinds) {
      entry.values = found.values;
      place.append(entry.plot.root);
      figure.querySelector("details").open = entry.opened;
      renew(figure, entry, found);
    } else {
      entry?.plot.destroy();
      entry = { kinds, values: found.values, opened: false };
      drawn.set(figure.id, entry);
      entry.plot = new uPlot(options(figure, place.clientWidth || 300, found, entry), data(figure.dataset.form, found), place);
    }
    fit.observe(place);
  };
  const drawAll = () => document.querySelectorAll("figure.chart").forEach(draw);

  document.addEventListener("toggle", (event) => {
    const entry = drawn.get(event.target.closest("figure.chart")?.id);
    if (entry) entry.opened = event.target.open;
  }, true);
  document.addEventListener("htmx:load", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const { plot } of drawn.values()) plot.destroy();
    drawn.clear();
    drawAll();
  });
  drawAll();
})();
