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

const PHONE = matchMedia("(max-width: 640px)");
const [CHART_WIDTH, PHONE_WIDTH, LEAST_STEP] = [680, 340, 34];
const [LEFT, RIGHT] = [72, 16];

// The lines in a frame of this width: an SVG whose letters keep their size where it is shown as wide as that.
function drawLines(width, { label, ticks, lines }) {
  const [height, top, bottom] = [300, 14, 84];
  const x = (place) => LEFT + (ticks.length < 2 ? 0.5 : place / (ticks.length - 1)) * (width - LEFT - RIGHT);
  const most = Math.max(100, ...lines.flatMap(({ points }) => points.map(([, value]) => value)));
  const y = (value) => top + (1 - value / most) * (height - top - bottom);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" });
  for (const value of [0, 20, 40, 60, 80, 100]) {
    drawn.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "rule" }));
    drawn.append(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  ticks.forEach((tick, place) => {
    const at = `translate(${x(place)},${y(0) + 14}) rotate(-35)`;
    drawn.append(svg("text", { transform: at, "text-anchor": "end" }, tick));
  });
  lines.forEach(({ name, points, dashed }, place) => {
    const { colour, marker } = looks(place);
    const path = points.map(([at, value], index) => `${index ? "L" : "M"}${x(at)},${y(value)}`).join("");
    drawn.append(svg("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashed ? "5 4" : null }));
    for (const [at, value] of points) {
      const said = svg("title", {}, `${name}, ${ticks[at]}: ${number(value)} %`);
      drawn.append(svg("path", { d: marker, fill: colour, transform: `translate(${x(at)},${y(value)})` }, said));
    }
  });
  return drawn;
}

// lines: [{ name, points: [[place, value]], dashed }]; ticks: names of the places. On a phone the frame is as narrow as
// the screen, and wider only where the ticks would touch each other.
function chart(what) {
  const frame = el("div", { class: "scroll" });
  const draw = () => {
    const narrow = Math.max(PHONE_WIDTH, LEFT + RIGHT + LEAST_STEP * (what.ticks.length - 1));
    const drawn = drawLines(PHONE.matches ? narrow : CHART_WIDTH, what);
    if (PHONE.matches && narrow > PHONE_WIDTH) drawn.style.minWidth = `${narrow}px`;
    frame.replaceChildren(drawn);
  };
  PHONE.addEventListener("change", draw);
  draw();
  const names = what.lines.map(({ name }, place) => {
    const { colour, marker } = looks(place);
    const sample = svg("svg", { viewBox: "-8 -6 16 12", class: "sample", "aria-hidden": "true" });
    sample.append(svg("path", { d: "M-8,0H8", stroke: colour, "stroke-width": 2 }), svg("path", { d: marker, fill: colour }));
    return el("li", {}, sample, name);
  });
  return el("figure", {}, frame, el("figcaption", {}, el("ul", { class: "names" }, names)));
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
