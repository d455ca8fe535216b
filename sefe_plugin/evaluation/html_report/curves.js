// Lines over the sequence: a colour and a marker each, named in a list below.

const MARKERS = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  "M-4,-4h8v8h-8z",
  "M0,-5L5,4H-5z",
  "M0,-5L5,0L0,5L-5,0z",
  "M0,5L5,-4H-5z",
  "M-5,0L4,-5V5z",
  "M5,0L-4,-5V5z",
  "M-2,-5h4v3h3v4h-3v3h-4v-3h-3v-4h3z",
];

function looks(place) {
  const round = Math.floor(place / page.lines.length);
  const colour = page.lines[place % page.lines.length];
  return { colour: colour === "#000000" ? "currentColor" : colour, marker: MARKERS[(place + round) % MARKERS.length] };
}

// lines: [{ name, points: [[place, value]], dashed }]; ticks: names of the places.
function chart({ label, ticks, lines }) {
  const [width, height, left, right, top, bottom] = [680, 300, 72, 16, 14, 84];
  const x = (place) => left + (ticks.length < 2 ? 0.5 : place / (ticks.length - 1)) * (width - left - right);
  const y = (value) => top + (1 - value / 100) * (height - top - bottom);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" });
  for (const value of [0, 20, 40, 60, 80, 100]) {
    drawn.append(svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "rule" }));
    drawn.append(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  ticks.forEach((tick, place) => {
    const at = `translate(${x(place)},${y(0) + 14}) rotate(-35)`;
    drawn.append(svg("text", { transform: at, "text-anchor": "end" }, tick));
  });
  const names = lines.map(({ name, points, dashed }, place) => {
    const { colour, marker } = looks(place);
    const path = points.map(([at, value], index) => `${index ? "L" : "M"}${x(at)},${y(value)}`).join("");
    drawn.append(svg("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashed ? "5 4" : null }));
    for (const [at, value] of points) {
      const said = svg("title", {}, `${name}, ${ticks[at]}: ${number(value)} %`);
      drawn.append(svg("path", { d: marker, fill: colour, transform: `translate(${x(at)},${y(value)})` }, said));
    }
    const sample = svg("svg", { viewBox: "-8 -6 16 12", class: "sample", "aria-hidden": "true" });
    sample.append(svg("path", { d: "M-8,0H8", stroke: colour, "stroke-width": 2 }), svg("path", { d: marker, fill: colour }));
    return el("li", {}, sample, name);
  });
  return el("figure", {}, el("div", { class: "scroll" }, drawn), el("figcaption", {}, el("ul", { class: "names" }, names)));
}

function taskCurves(run) {
  const { accuracy_matrix: accuracy, retention } = run.report;
  const first = retention ? 1 : 0;
  const ticks = [...(retention ? [page.before] : []), ...page.tasks];
  const known = (points) => points.filter(([, value]) => value !== null);
  const lines = page.tasks.map((name, j) => ({
    name,
    points: known(accuracy.map((row, i) => [i + first, i >= j ? row[j] : null])),
  }));
  (retention?.sets ?? []).forEach((name, j) =>
    lines.push({ name, dashed: true, points: known(retention.accuracy_matrix.map((row, i) => [i, row[j]])) }),
  );
  const label = "Accuracy on each task after each training; the numbers stand in the matrices above";
  return chart({ label, ticks, lines: lines.filter((line) => line.points.length) });
}

// Of several runs: the mean accuracy on the tasks so far.
function meanCurves() {
  const mean = (values) => (!values.length || values.includes(null) ? null : values.reduce((a, b) => a + b, 0) / values.length);
  const isScored = (run, j) => !(run.report.unscored ?? []).includes(page.tasks[j]);
  const lines = page.runs.map((run) => ({
    name: run.name,
    points: run.report.accuracy_matrix
      .map((row, i) => [i, mean(row.filter((_, j) => j <= i && isScored(run, j)))])
      .filter(([, value]) => value !== null),
  }));
  return chart({ label: "Mean accuracy on the tasks so far, of each run", ticks: page.tasks, lines });
}
