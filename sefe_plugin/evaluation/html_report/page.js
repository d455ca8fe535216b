// The page put together.

function build() {
  document.title = page.title;
  const any = (make) => page.runs.some((run) => make(run));
  const parts = [
    ["metrics", "Metrics", () => [metricsTable()]],
    [
      "matrices",
      "Accuracy and format",
      () => [el("p", {}, "Rows: after training on; columns: scored on."), forEachRun(taskMatrices)],
    ],
    ["curves", "Along the sequence", () => [several() ? meanCurves() : null, forEachRun(taskCurves)]],
    [
      "forgotten",
      "What was forgotten",
      () => [
        el("p", {}, "Points lost from just learned to the end."),
        forEachRun((run) => lossTable("task", page.tasks, run.report.losses)),
      ],
    ],
    any((run) => run.report.parts) && ["parts", "Parts of the accuracy", () => [forEachRun(partTables)]],
    any((run) => run.report.forward_transfer) && ["transfer", "Forward transfer", () => [forEachRun(transferTable)]],
    any((run) => run.report.retention) && [
      "retention",
      "Retention",
      () => [el("p", {}, "Test sets that belong to no task; lost since the untouched base."), forEachRun(retentionMatrices)],
    ],
    ["answers", "Answers", () => [answersPart()]],
    any((run) => run.ledger.length) && ["ledger", "Where the time went", () => [forEachRun(ledgerTables)]],
    any((run) => run.costs.length) && ["costs", "Time and memory", () => [forEachRun(costTable)]],
    any((run) => run.recipe) && ["recipe", "Recipe", () => page.runs.map(recipePart)],
  ].filter(Boolean);
  const notes = page.runs.flatMap((run) =>
    run.notes.map((note) => el("p", { class: "warning" }, several() ? `${run.name}: ${note}` : note)),
  );
  const links = parts.map(([id, head]) => el("li", {}, el("a", { href: `#${id}` }, head)));
  document.getElementById("page").append(
    el("h1", {}, page.title),
    ...notes,
    el("p", {}, "All numbers are percent; a dash stands for what was not scored."),
    ...page.runs.filter((run) => run.about).map((run) => el("p", {}, several() ? `${run.name}: ${run.about}` : run.about)),
    el("nav", { "aria-label": "Parts of this page" }, el("ul", {}, links)),
    ...parts.map(([id, head, make]) => section(id, head, ...make().flat())),
  );
}

build();
