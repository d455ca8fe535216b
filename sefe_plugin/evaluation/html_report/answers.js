// The browser of answers: a test set, a stage, a filter, and rows with the answers side by side.

const CHANGES = { f: "lost format", c: "lost content", r: "regained" };
const VERSUS = { b: "better", w: "worse" };
const ROWS_AT_A_TIME = 100;

let openAnswers = () => {};

function select(label, id) {
  const box = el("select", { id });
  return [el("label", { for: id }, label, box), box];
}

// Filters of a stage: the words, the count over all questions, and which shown rows they keep.
function filtersOf(set, stage) {
  const answers = set.runs.map((run) => run?.[stage]);
  const first = answers[0];
  const filters = [{ key: "all", words: "all", count: first.counts.all, keeps: () => true }];
  if (several()) {
    answers.slice(1).forEach((other, place) => {
      if (!other?.versus) return;
      for (const [letter, word] of Object.entries(VERSUS)) {
        filters.push({
          key: `${letter}${place}`,
          words: `${page.runs[place + 1].name} ${word}`,
          count: other.counts[letter] ?? 0,
          keeps: (row) => other.versus[row] === letter,
        });
      }
    });
    return filters;
  }
  if (!first.worth) return filters;
  for (const [letter, words] of Object.entries(CHANGES)) {
    filters.push({ key: letter, words, count: first.counts[letter] ?? 0, keeps: (row) => first.changes[row] === letter });
  }
  filters.push({ key: "wrong", words: "wrong", count: first.counts.wrong, keeps: (row) => first.worth[row] < 1 });
  return filters;
}

function picturesCell(set, row) {
  const pictures = set.questions[row][2].map((picture, place) => {
    if (typeof picture === "string") return el("p", { class: "note" }, picture);
    return el("img", { src: page.pictures[picture], alt: `picture ${place + 1} of question ${set.numbers[row] + 1}` });
  });
  return pictures.length ? pictures : [el("p", { class: "note" }, "no picture")];
}

function text(words) {
  return words === "" ? el("p", { class: "note" }, "(empty)") : el("p", { class: "text", dir: "auto" }, words);
}

function judgement(answers, row) {
  if (!answers.worth) return null;
  const worth = answers.worth[row];
  const right = worth === 1 ? "\u2713 right" : worth === 0 ? "\u2717 wrong" : `~ ${number(100 * worth, 0)} % right`;
  const parts = [el("span", { class: worth === 1 ? "right" : "wrong" }, right)];
  if (!answers.formatted[row]) parts.push(el("span", {}, "not in format"));
  const change = CHANGES[answers.changes[row]];
  if (change) parts.push(el("strong", {}, change));
  return el("p", { class: "judgement" }, parts);
}

// Heads of the columns, for each the content of a row, and a class of its own. Texts alone have no column of pictures.
function columnsOf(set, stage) {
  const columns = [
    ...(set.questions.some(([, , pictures]) => pictures.length) ? [["picture", (row) => picturesCell(set, row), "pictures"]] : []),
    ["question", (row) => [el("p", { class: "note" }, `number ${set.numbers[row] + 1}`), text(set.questions[row][0])]],
    ["right answer", (row) => [text(set.questions[row][1])]],
  ];
  const answer = (head, answers) => columns.push([head, (row) => [text(answers.answers[row]), judgement(answers, row)]]);
  if (several()) {
    page.runs.forEach((run, place) => {
      const answers = set.runs[place]?.[stage];
      if (answers) answer(run.name, answers);
    });
    return columns;
  }
  const own = set.runs[0];
  if (set.learned !== null && stage > set.learned) {
    answer(set.retention ? stageName(set.learned) : `just learned (${stageName(set.learned)})`, own[set.learned]);
  }
  answer(stageName(stage), own[stage]);
  return columns;
}

// What the filters mean: a line for each.
function meanings() {
  const first = page.runs[0].name;
  const lines = several()
    ? [
        ["better", `worth more than the answer of ${first} to the same question.`],
        ["worse", `worth less than the answer of ${first} to the same question.`],
      ]
    : [
        [CHANGES.f, "right then; wrong now, and not in the form that the task asks for."],
        [CHANGES.c, "right then; wrong now, in the form that the task asks for."],
        [CHANGES.r, "wrong then; right now."],
        ["wrong", "wrong now, whatever it was then."],
      ];
  const then = page.sets.some((set) => set.retention)
    ? "Then is when the task was just learned; for a retention set, before the first task."
    : "Then is when the task was just learned.";
  const partly = "An answer can also be partly right: lost is one that is worth less than then, regained one that is worth more, wrong one that is not wholly right.";
  return el(
    "div",
    { id: "meanings" },
    el("ul", {}, lines.map(([words, meaning]) => el("li", {}, el("strong", {}, words), `: ${meaning}`))),
    several() ? null : el("p", { class: "note" }, `${then} ${partly}`),
  );
}

function answersPart() {
  const sets = page.sets.filter((set) => set.stages.length);
  const missing = page.sets.flatMap((set) => set.notes.map((note) => el("p", { class: "note" }, `${set.name}: ${note}`)));
  if (!sets.length) return el("div", {}, el("p", {}, "There are no answers to show."), missing);

  const [setLabel, setBox] = select("Test set ", "set");
  const [stageLabel, stageBox] = select("Answers ", "stage");
  const filterBox = el("fieldset", { id: "filters" });
  const said = el("p", { class: "detail", role: "status", id: "shown" });
  const place = el("div", { id: "answers-table" });
  setBox.append(...sets.map((set, index) => el("option", { value: index }, set.retention ? `${set.name} (retention)` : set.name)));
  let filter = "all";

  const showRows = (set, stage, filters) => {
    const chosen = filters.find((one) => one.key === filter) ?? filters[0];
    const rows = set.numbers.map((_, row) => row).filter(chosen.keeps);
    const columns = columnsOf(set, stage);
    const body = el("tbody", { role: "rowgroup" });
    const more = el("button", { type: "button" }, "Show more");
    const add = () => {
      for (const row of rows.slice(body.children.length, body.children.length + ROWS_AT_A_TIME)) {
        const cells = columns.map(([head, make, kind]) => el("td", { role: "cell", class: kind, "data-head": head }, make(row)));
        body.append(el("tr", { role: "row" }, cells));
      }
      more.hidden = body.children.length >= rows.length;
    };
    more.addEventListener("click", add);
    add();
    const part = rows.length < chosen.count ? `; ${rows.length} of them are in this page, which holds ${set.numbers.length} of ${set.total} questions of this test set` : "";
    said.textContent = `${set.name}, ${stageName(stage)}, ${chosen.words}: ${chosen.count} of ${set.total} answers${part}. Scorer: ${set.scorer}.`;
    const heads = columns.map(([head]) => el("th", { role: "columnheader", scope: "col" }, head));
    const rowsTable = el(
      "table",
      { role: "table", class: "answers", "aria-label": "answers" },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads)),
      body,
    );
    place.replaceChildren(...(rows.length ? [rowsTable, more] : [el("p", {}, "No answers of this kind.")]));
  };

  const showStage = () => {
    const set = sets[setBox.value];
    const stage = Number(stageBox.value);
    const filters = filtersOf(set, stage);
    if (!filters.some((one) => one.key === filter)) filter = "all";
    filterBox.replaceChildren(
      el("legend", {}, "Which answers"),
      ...filters.map(({ key, words, count }) => {
        const input = el("input", { type: "radio", name: "filter", value: key, checked: key === filter });
        input.addEventListener("change", () => ((filter = key), showRows(set, stage, filters)));
        return el("label", {}, input, ` ${words} (${count})`);
      }),
    );
    showRows(set, stage, filters);
  };

  const showSet = (wanted) => {
    const set = sets[setBox.value];
    stageBox.replaceChildren(
      ...set.stages.map((stage) =>
        el("option", { value: stage }, stageName(stage) + (stage === set.learned && !set.retention ? " (just learned)" : "")),
      ),
    );
    stageBox.value = String(set.stages.includes(wanted) ? wanted : set.stages.at(-1));
    showStage();
  };

  setBox.addEventListener("change", () => showSet(Number(stageBox.value)));
  stageBox.addEventListener("change", showStage);
  openAnswers = (name, retention, stage) => {
    const index = sets.findIndex((set) => set.name === name && set.retention === retention && set.stages.includes(stage));
    if (index < 0) return;
    setBox.value = String(index);
    showSet(stage);
    document.getElementById("answers").scrollIntoView();
    setBox.focus({ preventScroll: true });
  };
  showSet(null);
  return el("div", {}, meanings(), missing, several() ? pairedTable() : null, el("div", { class: "choice" }, setLabel, stageLabel, filterBox), said, place);
}
