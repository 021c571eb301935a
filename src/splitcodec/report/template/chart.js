"use strict";
// A chart: series of points and lines on linear or logarithmic axes, drawn as SVG at the width that
// there is. Numbers near the pointer, or of the focused point, are told in a box.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function plain(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return String(Number(value.toPrecision(3)));
}

// Where ticks stand: at 1, 2, 5 times powers of ten, as many as fit.
function ticks(low, high, logarithmic, most) {
  const found = [];
  if (logarithmic) {
    for (const steps of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      found.length = 0;
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
        for (const step of steps) {
          const value = Number((step * 10 ** power).toPrecision(6));
          if (value >= low * 0.9999 && value <= high * 1.0001) found.push(value);
        }
      if (found.length >= 3 && found.length <= most) return found;
    }
    if (found.length > most) return found.filter((_, i) => i % Math.ceil(found.length / most) === 0);
    if (found.length >= 2) return found;
    found.length = 0;
  }
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough);
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    found.push(Number(value.toPrecision(10)));
  return found;
}

function scale(axis, from, to) {
  const of = axis.logarithmic ? Math.log : (value) => value;
  const [low, high] = [of(axis.low), of(axis.high)];
  return (value) => from + ((of(value) - low) / (high - low)) * (to - from);
}

// Outlines of matplotlib's markers, of about 9 pixels, around the origin.
const MARKS = {
  o: "M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z",
  s: "M-3.6,-3.6H3.6V3.6H-3.6Z",
  D: "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
  P: "M-1.6,-4.4H1.6V-1.6H4.4V1.6H1.6V4.4H-1.6V1.6H-4.4V-1.6H-1.6Z",
  X: "M-2.4,-4.6L0,-2.2L2.4,-4.6L4.6,-2.4L2.2,0L4.6,2.4L2.4,4.6L0,2.2L-2.4,4.6L-4.6,2.4L-2.2,0L-4.6,-2.4Z",
  "^": "M0,-4.6L4.4,3.6H-4.4Z",
  v: "M0,4.6L4.4,-3.6H-4.4Z",
  "<": "M-4.6,0L3.6,-4.4V4.4Z",
  ">": "M4.6,0L-3.6,-4.4V4.4Z",
  p: "M0,-4.6L4.4,-1.4L2.7,3.8H-2.7L-4.4,-1.4Z",
  h: "M0,-4.6L4,-2.3V2.3L0,4.6L-4,2.3V-2.3Z",
  "+": "M-4.6,0H4.6M0,-4.6V4.6",
  x: "M-3.4,-3.4L3.4,3.4M-3.4,3.4L3.4,-3.4",
  1: "M0,0V4.8M0,0L-4.2,-2.4M0,0L4.2,-2.4",
  3: "M0,0H-4.8M0,0L2.4,-4.2M0,0L2.4,4.2",
  2: "M0,0V-4.8M0,0L-4.2,2.4M0,0L4.2,2.4",
};
const OPEN = "+123x";
const DASHES = { "-": "", "--": "6 4", ":": "2 3" };

function swatch(look) {
  const made = element("svg", { viewBox: "-11 -6 22 12", "aria-hidden": "true", class: "series" });
  made.style.setProperty("--colour", look.colour);
  if (look.stroke)
    made.append(element("path", { d: "M-11,0H11", class: "line", "stroke-dasharray": DASHES[look.stroke] }));
  made.append(mark(look));
  return made;
}

function mark(look) {
  const open = OPEN.includes(look.marker) ? " open" : "";
  return element("path", { d: MARKS[look.marker] ?? MARKS.o, class: `mark${open}` });
}

function told(point) {
  const box = document.createElement("div");
  const title = document.createElement("b");
  title.textContent = point.title;
  box.append(title);
  for (const line of point.lines ?? []) box.append(line, document.createElement("br"));
  if (point.file) {
    const file = document.createElement("code");
    file.textContent = point.file;
    box.append(file);
  }
  return box;
}

class Chart {
  constructor(host, height) {
    this.host = host;
    this.height = height;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.tip.setAttribute("role", "status");
    let width = 0;
    new ResizeObserver(() => {
      if (this.spec && Math.abs(host.clientWidth - width) > 1) this.draw(this.spec);
      width = host.clientWidth;
    }).observe(host);
  }

  // spec: label; x and y, each {label, low, high, logarithmic, write}; series of {name, colour,
  // marker, stroke, line: [[x, y]], points: [{x, y, low, high, title, lines, file}]};
  // verticals: [{x, label}]; horizontals: [{y, label}]; bands: [{low: [[x, y]], high: [[x, y]], label}]
  draw(spec) {
    this.spec = spec;
    const width = Math.max(280, this.host.clientWidth || 760);
    const height = Math.min(this.height, Math.max(240, width * 0.72));
    const frame = { left: 72, right: width - 14, top: 14, bottom: height - 44 };
    const x = scale(spec.x, frame.left, frame.right);
    const y = scale(spec.y, frame.bottom, frame.top);
    const svg = element("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": spec.label,
    });
    const clip = `clip-${this.host.id}`;
    svg.append(element("defs", {}, element("clipPath", { id: clip }, element("rect", {
      x: frame.left, y: frame.top - 6, width: frame.right - frame.left + 6,
      height: frame.bottom - frame.top + 6,
    }))));
    this.axes(svg, spec, frame, x, y);
    const inside = element("g", { "clip-path": "url(#" + clip + ")" });
    for (const band of spec.bands ?? []) {
      const edge = [...band.low, ...band.high.toReversed()].map(([a, b]) => `${x(a)},${y(b)}`);
      inside.append(element("polygon", { points: edge.join(" "), class: "band" }));
    }
    svg.append(inside);
    this.references(svg, spec, frame, x, y);
    this.marks = spec.series.flatMap((series) => this.series(inside, series, spec, x, y));
    this.host.replaceChildren(svg, this.tip);
    this.tip.hidden = true;
    svg.addEventListener("pointermove", (event) => this.point(event, svg, width));
    svg.addEventListener("pointerleave", () => this.show(null));
  }

  axes(svg, spec, frame, x, y) {
    const text = (content, attributes) => {
      const made = element("text", attributes);
      made.textContent = content;
      svg.append(made);
    };
    const across = Math.floor((frame.right - frame.left) / 62);
    for (const value of ticks(spec.x.low, spec.x.high, spec.x.logarithmic, across)) {
      if (spec.x.whole && !Number.isInteger(value)) continue;
      svg.append(element("line", { x1: x(value), x2: x(value), y1: frame.top, y2: frame.bottom, class: "grid" }));
      text((spec.x.write ?? plain)(value), { x: x(value), y: frame.bottom + 16, "text-anchor": "middle", class: "tick" });
    }
    for (const value of ticks(spec.y.low, spec.y.high, spec.y.logarithmic, 7)) {
      svg.append(element("line", { x1: frame.left, x2: frame.right, y1: y(value), y2: y(value), class: "grid" }));
      text((spec.y.write ?? plain)(value), { x: frame.left - 7, y: y(value) + 4, "text-anchor": "end", class: "tick" });
    }
    svg.append(element("path", { d: `M${frame.left},${frame.top}V${frame.bottom}H${frame.right}`, fill: "none", class: "axis" }));
    text(spec.x.label, { x: (frame.left + frame.right) / 2, y: frame.bottom + 36, "text-anchor": "middle" });
    const middle = (frame.top + frame.bottom) / 2;
    text(spec.y.label, { x: 0, y: 0, "text-anchor": "middle", transform: `translate(13 ${middle}) rotate(-90)` });
  }

  references(svg, spec, frame, x, y) {
    for (const line of spec.verticals ?? []) {
      if (line.x < spec.x.low || line.x > spec.x.high) continue;
      const at = x(line.x);
      svg.append(element("line", { x1: at, x2: at, y1: frame.top, y2: frame.bottom, class: "reference" }));
      const label = element("text", { class: "note halo", "text-anchor": "end", transform: `translate(${at - 4} ${frame.top + 4}) rotate(-90)` });
      label.textContent = line.label;
      svg.append(label);
    }
    for (const line of spec.horizontals ?? []) {
      if (line.y < spec.y.low || line.y > spec.y.high) continue;
      svg.append(element("line", { x1: frame.left, x2: frame.right, y1: y(line.y), y2: y(line.y), class: "uncoded" }));
      const label = element("text", { class: "note halo", "text-anchor": "end", x: frame.right, y: y(line.y) - 5 });
      label.textContent = line.label;
      svg.append(label);
    }
    for (const band of spec.bands ?? []) {
      const [a, b] = band.high[Math.floor(band.high.length * 0.35)];
      if (a < spec.x.low || b < spec.y.low || b > spec.y.high) continue;
      const label = element("text", { class: "note halo", x: x(a) + 10, y: y(b) - 4 });
      label.textContent = band.label;
      svg.append(label);
    }
  }

  series(inside, series, spec, x, y) {
    const group = element("g", { class: "series", "data-name": series.name });
    group.style.setProperty("--colour", series.colour);
    if (series.stroke && series.line?.length > 1) {
      const path = series.line.map(([a, b]) => `${x(a)},${y(b)}`).join("L");
      group.append(element("path", { d: `M${path}`, class: "line", "stroke-dasharray": DASHES[series.stroke] }));
    }
    const within = (axis, value) => value >= axis.low * 0.999 && value <= axis.high * 1.001;
    const marks = [];
    for (const point of series.points ?? []) {
      if (!within(spec.x, point.x) || !within(spec.y, point.y)) continue;
      const [left, top] = [x(point.x), y(point.y)];
      if (point.low !== undefined) {
        const ends = [point.low, point.high].map((end) => y(Math.min(Math.max(end, spec.y.low), spec.y.high)));
        group.append(element("line", { x1: left, x2: left, y1: ends[0], y2: ends[1], class: "bar" }));
      }
      const made = mark(series);
      made.setAttribute("transform", `translate(${left} ${top})`);
      made.setAttribute("tabindex", "0");
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", [point.title, ...(point.lines ?? [])].join(", "));
      const place = { left, top, made, point };
      made.addEventListener("focus", () => this.show(place));
      made.addEventListener("blur", () => this.show(null));
      group.append(made);
      marks.push(place);
    }
    inside.append(group);
    return marks;
  }

  point(event, svg, width) {
    const box = svg.getBoundingClientRect();
    const unit = width / box.width;
    const [left, top] = [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
    let nearest = null, least = 24;
    for (const place of this.marks) {
      const distance = Math.hypot(place.left - left, place.top - top);
      if (distance < least) [nearest, least] = [place, distance];
    }
    this.show(nearest);
  }

  show(place) {
    if (place === this.shown && !this.tip.hidden) return;
    this.shown?.made.classList.remove("near");
    this.shown = place;
    this.tip.hidden = !place;
    if (!place) return;
    place.made.classList.add("near");
    this.tip.replaceChildren(told(place.point));
    const [width, room] = [this.host.clientWidth, this.tip.offsetWidth];
    const right = place.left + 14 + room > width;
    this.tip.style.left = `${Math.max(0, right ? place.left - room - 14 : place.left + 14)}px`;
    this.tip.style.top = `${Math.max(0, place.top - this.tip.offsetHeight / 2)}px`;
  }
}
