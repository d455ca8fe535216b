// Plain tables: metrics, what was forgotten, forward transfer, times, costs.

// Cells that are numbers in text stand to the right.
function table(caption, heads, rows, { words = [0] } = {}) {
  const side = (place) => (words.includes(place) ? null : "number");
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { class: "plain" },
      caption ? el("caption", {}, caption) : null,
      el("thead", {}, el("tr", {}, heads.map((head, place) => el("th", { scope: "col", class: side(place) }, head)))),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((cell, place) =>
              place === 0 ? el("th", { scope: "row" }, cell) : el("td", { class: side(place) }, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

function metricsTable() {
  const { columns, rows } = page.metrics;
  const heads = ["metric", ...columns, "meaning"];
  const cells = rows.map(([head, meaning, ...values]) => [head, ...values.map((value) => number(value)), meaning]);
  return table(null, heads, cells, { words: [0, heads.length - 1] });
}

// A bar of the two parts of a loss: hatched and plain, so that not the colour alone tells them apart. A part that was
// gained has no width.
function lossBar(loss) {
  const [superficial, essential] = [loss.superficial, loss.essential].map((part) => Math.max(0, part));
  const parts = [
    [superficial, "superficial"],
    [essential, "essential"],
  ].map(([width, kind]) => {
    const part = el("span", { class: kind });
    part.style.width = `${Math.min(100, width)}%`;
    return part;
  });
  const said = `superficial ${number(loss.superficial, 1)}, essential ${number(loss.essential, 1)} points`;
  return el("div", { class: "bar", role: "img", "aria-label": said }, parts);
}

function lossTable(head, names, losses) {
  const rows = names.map((name, index) => {
    const loss = losses[index];
    if (!loss) return [name, "-", "-", "-", ""];
    return [name, number(loss.drop), number(loss.superficial), number(loss.essential), lossBar(loss)];
  });
  const entry = (kind, words) => el("li", {}, el("span", { class: `key ${kind}`, "aria-hidden": "true" }), words);
  const gained = losses.some((loss) => loss && Object.values(loss).some((value) => number(value).startsWith("-")));
  const legend = el(
    "ul",
    { class: "names legend" },
    entry("superficial", "superficial: the answer format is lost"),
    entry("essential", "essential: the content is lost"),
    gained ? el("li", {}, "negative: gained") : null,
  );
  return el("div", {}, legend, table(null, [head, "lost", "superficial", "essential", "of 100"], rows, { words: [0, 4] }));
}

function transferTable(run) {
  const transfer = run.report.forward_transfer;
  if (!transfer) return null;
  const columns = [
    ["unseen", transfer.unseen && [...transfer.unseen, null], "unseen: what the tasks not learned yet gain over the untouched base"],
    ["learning", transfer.learning, "learning: what the tasks so far gain over training each alone"],
    ["trained alone", transfer.single_task, "trained alone: accuracy on the task when nothing else was trained"],
  ].filter(([, values]) => values);
  const rows = page.tasks.map((task, index) => [task, ...columns.map(([, values]) => number(values[index]))]);
  const about = `After each task, in points: ${columns.map(([, , meaning]) => meaning).join("; ")}.`;
  return el("div", {}, el("p", {}, about), table(null, ["after", ...columns.map(([head]) => head)], rows));
}

function partTables(run) {
  if (!run.report.parts) return null;
  const tables = Object.entries(run.report.parts).map(([task, stages]) => {
    const rows = Object.entries(stages).map(([stage, values]) => [
      page.part_stages[stage],
      ...Object.values(values).map((value) => number(value)),
    ]);
    return table(task, ["", ...Object.keys(stages.end)], rows);
  });
  return el("div", {}, el("p", {}, page.about_parts), tables);
}

function ledgerTables(run) {
  if (!run.ledger.length) return el("p", {}, "No record of it: an earlier version made this run.");
  const isNumber = (cell) => cell === "-" || !Number.isNaN(Number(cell));
  const tables = run.ledger.flatMap(({ about, heads, rows }) => {
    const words = heads.map((_, place) => place).filter((place) => !rows.every((row) => isNumber(row[place])));
    return [el("p", {}, about), table(null, heads, rows, { words })];
  });
  return el("div", {}, tables);
}

function costTable(run) {
  if (!run.costs.length) return el("p", {}, "No complete task, or no record of what it took.");
  const known = (value, divisor, digits) => (value === null ? "-" : number(value / divisor, digits));
  const rows = run.costs.map((cost) => [
    cost.task,
    number(cost.seconds / 60, 1),
    known(cost.training, 60, 1),
    cost.steps === null ? "-" : String(cost.steps) + (cost.steps_before ? ` (+ ${cost.steps_before} before a stop)` : ""),
    known(cost.peak_memory, 1e9, 2),
    number(cost.bytes_left / 1e6, 1),
  ]);
  const sum = (key) => run.costs.reduce((total, cost) => (total === null || cost[key] === null ? null : total + cost[key]), 0);
  const most = Math.max(...run.costs.map((cost) => cost.peak_memory ?? 0));
  const steps = sum("steps");
  rows.push([
    "all tasks",
    number(sum("seconds") / 60, 1),
    known(sum("training"), 60, 1),
    steps === null ? "-" : String(steps),
    most ? number(most / 1e9, 2) : "-",
    number(sum("bytes_left") / 1e6, 1),
  ]);
  const kinds = new Set(run.costs.map((cost) => cost.memory_of));
  const memory = kinds.has("cuda")
    ? "Peak memory is the most that PyTorch allocated on the first process's GPU."
    : "Peak memory is the most that the first process held, libraries and all.";
  const about = `Whole is the time of a task with loading, scoring and merging, training that of its trainings alone. ${memory} Left is what a task leaves for later ones.`;
  return el("div", {}, el("p", {}, about), table(null, ["task", "whole, min", "training, min", "steps", "peak memory, GB", "left, MB"], rows));
}

function recipePart(run) {
  if (!run.recipe) return null;
  return el("details", {}, el("summary", {}, several() ? `Recipe of ${run.name}` : "Show the recipe"), el("pre", { tabindex: "0" }, run.recipe));
}

// Of several runs: on how many questions each is better or worse than the first, at the last stage that both answered.
function pairedTable() {
  const rows = page.sets.flatMap((set) =>
    page.runs.slice(1).flatMap((run, place) => {
      const stage = set.stages.findLast((one) => set.runs[place + 1][one]?.versus);
      if (stage === undefined) return [];
      const { b: better = 0, w: worse = 0, all } = set.runs[place + 1][stage].counts;
      return [[set.name, stageName(stage), run.name, ...[better, worse, all - better - worse, all].map(String)]];
    }),
  );
  if (!rows.length) return null;
  const heads = ["test set", "answers", "run", "better", "worse", "worth the same", "questions"];
  return table(`Answers to the same questions, against ${page.runs[0].name}`, heads, rows, { words: [0, 1, 2] });
}
