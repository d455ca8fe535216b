"use strict";

// Elements and words. Whatever comes from the data becomes a node of text, and never HTML.

const page = JSON.parse(document.getElementById("data").textContent);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// 85 -> "85.00"; null -> a dash. As Python rounds, so that report.md says the same: a number in the middle of two goes
// to the even one, 3.125 -> "3.12". It is in the middle where its multiple by 2 ** (digits + 1) is odd, which is exact.
function number(value, digits = 2) {
  if (value === null || value === undefined) return "-";
  const middle = Math.abs(value * 2 ** (digits + 1)) % 2 === 1;
  const away = value.toFixed(digits);
  const rounded = middle && Number(away.at(-1)) % 2 ? value.toFixed(digits + 1).slice(0, -1) : away;
  return (Number(rounded) + 0).toFixed(digits); // adding 0 turns -0.0 into 0.0
}

function several() {
  return page.runs.length > 1;
}

// Stage -1 is before the first task.
function stageName(stage) {
  return stage < 0 ? `${page.before} the first task` : `after ${page.tasks[stage]}`;
}

function section(id, head, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-head` }, el("h2", { id: `${id}-head` }, head), ...children);
}

// The same part for each run, under its name where there are several.
function forEachRun(make) {
  return page.runs.map((run, index) => {
    const part = make(run, index);
    return part && several() ? el("div", { class: "run" }, el("h3", {}, run.name), part) : part;
  });
}
