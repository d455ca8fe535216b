// Heat maps: tables with a number in every cell, in which the arrow keys choose a cell.

// The number is black or white, whichever can be read better: WCAG's relative luminance, where both are equal at 0.179.
function shade(cell, value) {
  const colour = page.scale[Math.round(Math.min(100, Math.max(0, value)))];
  const [red, green, blue] = [1, 3, 5]
    .map((place) => parseInt(colour.slice(place, place + 2), 16) / 255)
    .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  cell.style.backgroundColor = colour;
  cell.style.color = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

// rows, columns: names; values: percent or null; tell(i, j): what the line below says; open(i, j): what Enter does.
function heatMap({ caption, rows, columns, values, tell, open, line }) {
  const cells = values.map((row, i) =>
    row.map((value, j) => {
      const said = `after ${rows[i]}, scored on ${columns[j]}: ${value === null ? "not scored" : `${number(value)} %`}`;
      const cell = el("td", { role: "gridcell", tabindex: "-1", "aria-label": said }, number(value, 1));
      if (value === null) cell.classList.add("none");
      else shade(cell, value);
      return cell;
    }),
  );
  const move = (i, j) => {
    const to = cells[i]?.[j];
    if (!to) return;
    cells.flat().forEach((cell) => cell.setAttribute("tabindex", "-1"));
    to.setAttribute("tabindex", "0");
    to.focus();
  };
  const last = (list) => list.length - 1;
  cells.forEach((row, i) =>
    row.forEach((cell, j) => {
      const say = () => (line.textContent = tell(i, j));
      cell.addEventListener("mouseenter", say);
      cell.addEventListener("focus", say);
      cell.addEventListener("click", () => (cell.focus(), open(i, j)));
      cell.addEventListener("keydown", (event) => {
        const to = {
          ArrowUp: [i - 1, j],
          ArrowDown: [i + 1, j],
          ArrowLeft: [i, j - 1],
          ArrowRight: [i, j + 1],
          Home: [i, 0],
          End: [i, last(row)],
        }[event.key];
        if (to) move(...to);
        else if (event.key === "Enter" || event.key === " ") open(i, j);
        else return;
        event.preventDefault();
      });
    }),
  );
  const first = cells.flat().find((cell) => !cell.classList.contains("none")) ?? cells[0]?.[0];
  first?.setAttribute("tabindex", "0");
  const head = el("tr", { role: "row" }, el("th", { role: "columnheader", scope: "col" }, "after"));
  head.append(...columns.map((name) => el("th", { role: "columnheader", scope: "col" }, el("span", {}, name))));
  const body = cells.map((row, i) =>
    el("tr", { role: "row" }, el("th", { role: "rowheader", scope: "row" }, rows[i]), row),
  );
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { role: "grid", class: columns.length > 3 ? "map many" : "map", "aria-label": caption },
      el("caption", {}, caption),
      el("thead", { role: "rowgroup" }, head),
      el("tbody", { role: "rowgroup" }, body),
    ),
  );
}

function detailLine() {
  const said = "Point at a cell, or choose one with Tab and the arrow keys. Enter or a click shows its answers.";
  return el("p", { class: "detail", role: "status" }, said);
}

// What is told of a cell; then is the value when the task was just learned, where that is another one.
function tellCell(row, column, accuracy, format, error, then) {
  if (accuracy === null) return `After ${row}, on ${column}: not scored.`;
  const change = then === null || then === undefined ? "" : ` Just learned: ${number(then)} %.`;
  const spread = typeof error === "number" ? ` \u00b1 ${number(error)} (standard error)` : "";
  return `After ${row}, on ${column}: accuracy ${number(accuracy)} %${spread}, right format ${number(format)} %.${change}`;
}

function taskMatrices(run, index) {
  const { tasks, zero_shot: base, accuracy_matrix: accuracy, format_matrix: format, official, lenient } = run.report;
  const above = base ? 1 : 0;
  const rows = [...(base ? [page.before] : []), ...tasks];
  const line = detailLine();
  const tall = { accuracy: [...(base ? [base.accuracy] : []), ...accuracy], format: [...(base ? [base.format] : []), ...format] };
  const errors = [...(base ? [base.stderr] : []), ...(run.report.stderr_matrix ?? [])];
  const tell = (i, j) => {
    const then = i - above > j ? accuracy[j][j] : null;
    return tellCell(rows[i], tasks[j], tall.accuracy[i][j], tall.format[i][j], errors[i]?.[j], then);
  };
  const open = (i, j) => openAnswers(tasks[j], false, i - above, index);
  const common = { rows, columns: tasks, tell, open, line };
  const maps = [
    heatMap({ ...common, caption: "Accuracy, %", values: tall.accuracy }),
    heatMap({ ...common, caption: "Answers in the right format, %", values: tall.format }),
  ];
  if (official) {
    const values = [...(base ? [tasks.map(() => null)] : []), ...official.accuracy_matrix];
    maps.push(heatMap({ ...common, caption: "Official accuracy, %", values }));
  }
  if (lenient) {
    const values = [...(base ? [base.lenient ?? tasks.map(() => null)] : []), ...lenient.accuracy_matrix];
    maps.push(heatMap({ ...common, caption: "Accuracy as a reader counts it (lenient), %", values }));
  }
  return el("div", {}, el("div", { class: "maps" }, maps), lenient ? el("p", { class: "note" }, page.lenient) : null, line);
}

function retentionMatrices(run, index) {
  const retention = run.report.retention;
  if (!retention) return null;
  const rows = [page.before, ...page.tasks];
  const line = detailLine();
  const tell = (i, j) => {
    const [accuracy, format] = [retention.accuracy_matrix, retention.format_matrix].map((matrix) => matrix[i][j]);
    return tellCell(rows[i], retention.sets[j], accuracy, format, retention.stderr_matrix?.[i]?.[j], null);
  };
  const open = (i, j) => openAnswers(retention.sets[j], true, i - 1, index);
  const common = { rows, columns: retention.sets, tell, open, line };
  return el(
    "div",
    {},
    el(
      "div",
      { class: "maps" },
      heatMap({ ...common, caption: "Accuracy, %", values: retention.accuracy_matrix }),
      heatMap({ ...common, caption: "Answers in the right format, %", values: retention.format_matrix }),
      retention.lenient_matrix
        ? heatMap({ ...common, caption: "Accuracy as a reader counts it (lenient), %", values: retention.lenient_matrix })
        : null,
    ),
    line,
    lossTable("test set", retention.sets, retention.losses),
  );
}
