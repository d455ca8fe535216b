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

// 85 -> "85.00"; null -> a dash. Adding 0 turns -0.0 into 0.0.
function number(value, digits = 2) {
  return value === null || value === undefined ? "-" : (Number(value.toFixed(digits)) + 0).toFixed(digits);
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
