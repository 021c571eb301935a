// What the page's controls do. All numbers come from #data; nothing is fetched.

const DATA = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const bits = (value, unit) => `${value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 })} bits a ${unit}`;

// ---- which methods are shown, everywhere alike

const SHY = ["int + raw", "int + deflate", "fp16 + deflate", "fp16 + zstd"];
const hidden = new Set(SHY);
const redraws = [];
const redraw = () => redraws.forEach((draw) => draw());

function legends() {
  const looks = new Map();
  for (const place of DATA.places) for (const curve of place.curves) looks.set(curve.name, curve);
  for (const list of document.querySelectorAll(".legend")) {
    for (const look of looks.values()) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = look.name;
      button.append(swatch(look), look.name);
      button.addEventListener("click", () => {
        if (!hidden.delete(look.name)) hidden.add(look.name);
        press();
        redraw();
      });
      list.append(button);
    }
  }
  press();
}

function press() {
  for (const button of document.querySelectorAll(".legend button"))
    button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.name)));
}

const shown = (curves) => curves.filter((curve) => !hidden.has(curve.name));

// ---- rate and distortion

const kept = (metric, limit, value) => limit === null || (metric.higher ? value >= limit : value <= limit);

function qualityAxis(metric, place, curves, logarithmic) {
  const [limit, uncoded] = [place.limits[metric.name], place.uncoded[metric.name]];
  const values = curves.flatMap((c) => c.points.map((p) => p.values[metric.name][0]))
    .filter((v) => v !== null && kept(metric, limit, v) && (!logarithmic || v > 0));
  if (uncoded !== null && (!logarithmic || uncoded > 0)) values.push(uncoded);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const axis = { label: metric.label, logarithmic };
  if (metric.higher) return { ...axis, low: least - 0.03, high: most + 0.02 };
  if (!logarithmic && !uncoded) return { ...axis, low: 0, high: most * 1.08 };
  return { ...axis, low: uncoded ? least * 0.96 : Math.max(least / 1.6, 1e-5), high: uncoded ? most * 1.05 : most * 1.3 };
}

function rateAxis(unit, curves, lines, logarithmic) {
  const values = [...curves.flatMap((c) => c.points.map((p) => p.rate)), ...lines.map((l) => l.x)];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const axis = { label: `bits per ${unit} (file)`, logarithmic };
  return logarithmic ? { ...axis, low: least / 1.5, high: most * 1.2 } : { ...axis, low: 0, high: most * 1.04 };
}

const more = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`;

function describe(place, point, metric) {
  const value = (m, v) => (v === null ? "–" : v.toFixed(m.digits));
  const [middle, low, high] = point.values[metric.name];
  const interval = low === undefined ? "" : ` (${value(metric, low)} to ${value(metric, high)})`;
  const others = place.metrics.filter((m) => m !== metric)
    .map((m) => `${m.label.split(",")[0]} ${value(m, point.values[m.name][0])}`);
  return {
    title: point.name + (point.seed === null ? "" : `, seed ${point.seed}`),
    lines: [
      bits(point.rate, place.unit),
      `${metric.label.split(",")[0]} ${value(metric, middle)}${interval}`,
      ...others,
      `${place.unit === "token" ? `${more(100 * Math.expm1(point.loss))} % perplexity, ` : ""}${plain(point.ms)} ms a ${place.unit}`,
    ],
    file: point.file,
  };
}

function drawPlace(chart, note, place) {
  // What is chosen, or what this model is measured by first.
  const metric = place.metrics.find((m) => m.name === by("metric").value) ?? place.metrics[0];
  const lines = by("references")?.checked ? place.references : [];
  const curves = shown(place.curves);
  if (!curves.length) return;
  const logarithmic = by("y-scale").value === "log" && !metric.higher;
  const limit = place.limits[metric.name];
  const x = rateAxis(place.unit, curves, lines, by("x-scale").value === "log");
  const y = qualityAxis(metric, place, curves, logarithmic);
  const uncoded = place.uncoded[metric.name];
  const usable = (v) => v !== null && (!logarithmic || v > 0);
  const band = metric.name === "kl" ? place.band.filter(([low, , d]) => (!x.logarithmic || low > 0) && usable(d)) : [];
  chart.draw({
    label: `Rate and distortion of ${place.model} at split ${place.split}`,
    x, y,
    verticals: lines.map((line) => ({ x: line.x, label: `${line.label}: ${line.x.toFixed(1)}` })),
    horizontals: uncoded && !metric.higher ? [{ y: uncoded, label: `uncoded: ${uncoded.toFixed(metric.digits)}` }] : [],
    bands: band.length ? [{
      low: band.map(([low, , d]) => [low, d]), high: band.map(([, high, d]) => [high, d]),
      label: "possible, token by token",
    }] : [],
    series: curves.map((curve) => ({
      ...curve,
      line: curve.rates.map((rate, i) => [rate, curve.line[metric.name][i]]).filter(([, v]) => usable(v)),
      points: curve.points.filter((p) => usable(p.values[metric.name][0])).map((point) => ({
        x: point.rate, y: point.values[metric.name][0],
        low: point.values[metric.name][1], high: point.values[metric.name][2],
        ...describe(place, point, metric),
      })),
    })),
  });
  const beyond = curves.flatMap((curve) => curve.points.filter((p) => !kept(metric, limit, p.values[metric.name][0]))
    .map((p) => `${p.name} at ${plain(p.rate)} bits (${plain(p.values[metric.name][0])})`));
  note.textContent = beyond.length ? `Beyond the edge: ${[...new Set(beyond)].join("; ")}.` : "";
}

function rateDistortion() {
  for (const metric of DATA.metrics) by("metric").append(new Option(metric.label, metric.name));
  const draws = DATA.places.map((place, i) => {
    const chart = new Chart(by(`rd-${i}`), 430);
    return () => drawPlace(chart, by(`rd-note-${i}`), place);
  });
  redraws.push(...draws);
  for (const id of ["metric", "x-scale", "y-scale", "references"])
    by(id)?.addEventListener("change", () => draws.forEach((draw) => draw()));
  by("metric").addEventListener("change", () => {
    by("y-scale").disabled = DATA.metrics.find((m) => m.name === by("metric").value).higher;
  });
}

// ---- rate by split

function rateBySplit() {
  const choice = by("level");
  DATA.levels.forEach((level, i) => choice.append(new Option(level.said, i)));
  choice.value = String(DATA.levels.findIndex((level) => level.loss === 0.05));
  DATA.splits.forEach((group, i) => {
    const chart = new Chart(by(`splits-${i}`), 340);
    const draw = () => {
      const at = Number(choice.value);
      const series = shown(group.curves).map((curve) => {
        const points = curve.points.filter((p) => p.rates[at] !== null).map((p) => ({
          x: p.split, y: p.rates[at], title: `${curve.name}, split ${p.split}`, lines: [bits(p.rates[at], group.unit)],
        }));
        return { ...curve, points, line: points.map((p) => [p.x, p.y]) };
      }).filter((curve) => curve.points.length);
      const splits = group.curves.flatMap((c) => c.points.map((p) => p.split));
      const [first, last] = [Math.min(...splits), Math.max(...splits)];
      for (const look of shown(group.pictures)) {
        const rate = look.rates[at];
        if (rate === null) continue;
        const ends = [first, last].map((split) => ({ x: split, y: rate, title: look.name, lines: [bits(rate, group.unit)] }));
        series.push({ ...look, points: ends, line: ends.map((p) => [p.x, p.y]) });
      }
      by(`splits-${i}`).hidden = !series.length;
      by(`splits-note-${i}`).textContent = series.length ? "" : `No curve was measured on both sides of ${group.levels[at]}.`;
      if (!series.length) return;
      const most = Math.max(1, ...series.flatMap((c) => c.points.map((p) => p.y)));
      const room = Math.max(1, 0.08 * (last - first));
      chart.draw({
        label: `Rate by split of ${group.model}`, series,
        x: { label: "split (blocks before it)", low: first - room, high: last + room, whole: true },
        y: { label: `bits per ${group.unit} (file)`, low: 0, high: most * 1.08 },
      });
    };
    redraws.push(draw);
    choice.addEventListener("change", draw);
  });
}

// ---- time a token over a link

function link() {
  DATA.levels.forEach((level) => by("within").append(new Option(level.said, level.loss)));
  by("within").value = "0.05";
  DATA.places.forEach((place, i) => {
    const chart = new Chart(by(`link-${i}`), 380);
    const bandwidths = Array.from({ length: 61 }, (_, k) => 10 ** (k / 12 - 1)); // Mbit/s
    const draw = () => {
      const level = Number(by("within").value);
      const within = place.unit === "token" ? Math.log1p(level) : level;
      const series = shown(place.curves).flatMap((curve) => {
        const good = curve.points.filter((p) => p.loss <= within).sort((a, b) => a.rate - b.rate);
        if (!good.length) return [];
        const point = good[0];
        const time = (bandwidth) => point.rate / bandwidth / 1000 + point.ms;
        return [{
          ...curve, stroke: curve.stroke || ":",
          line: bandwidths.map((b) => [b, time(b)]),
          points: bandwidths.filter((_, k) => k % 12 === 6).map((b) => ({
            x: b, y: time(b), title: point.name,
            lines: [`${plain(time(b))} ms a ${place.unit} at ${plain(b)} Mbit/s`, bits(point.rate, place.unit), `${plain(point.ms)} ms of coding`],
          })),
        }];
      });
      if (!series.length) return;
      const times = series.flatMap((s) => s.line.map(([, t]) => t));
      chart.draw({
        label: `Time a ${place.unit} of ${place.model} at split ${place.split}`, series,
        x: { label: "bandwidth of the link, Mbit/s", logarithmic: true, low: 0.1, high: 10000 },
        y: { label: `coding and sending, ms per ${place.unit}`, logarithmic: true, low: Math.min(...times) / 1.3, high: Math.max(...times) * 1.3 },
      });
    };
    redraws.push(draw);
    by("within").addEventListener("change", draw);
  });
}

// ---- where the bits go

function averaged(values, size) {
  const found = [];
  for (let start = 0; start < values.length; start += size) {
    const part = values.slice(start, start + size);
    found.push([start + (part.length - 1) / 2, part.reduce((a, b) => a + b, 0) / part.length]);
  }
  return found;
}

function allocation() {
  if (!DATA.examples.length) return;
  const draw = (id, of, x, write) => {
    const chart = new Chart(by(id), 320);
    redraws.push(() => {
      const series = DATA.examples.map((example) => {
        const line = of(example);
        return { ...example, line, points: line.map(([a, b]) => ({ x: a, y: b, title: example.name, lines: [write(a, b)] })) };
      }).map((s) => ({ ...s, points: s.points.filter((_, i) => i % Math.ceil(s.points.length / 24) === 0) }));
      const all = series.flatMap((s) => s.line);
      const [last, most] = [Math.max(...all.map(([a]) => a)), Math.max(...all.map(([, b]) => b))];
      chart.draw({ label: x, series, x: { label: x, low: 0, high: last + 1 }, y: { label: "bits", low: 0, high: most * 1.08 } });
    });
  };
  draw("channels", (e) => e.channels.map((b, i) => [i + 1, b]), "channel of the transform",
    (a, b) => `channel ${a}: ${plain(b)} bits a token`);
  draw("positions", (e) => averaged(e.positions, Math.max(1, Math.round(e.positions.length / 64))), "position in the sequence",
    (a, b) => `about token ${Math.round(a)}: ${plain(b)} bits`);
}

function heat() {
  for (const select of document.querySelectorAll("select.heat")) {
    const passage = by(select.dataset.passage);
    const paint = () => {
      const name = select.value;
      const spans = [...passage.querySelectorAll("span")];
      const values = spans.map((span) => Number(span.dataset[name] || NaN));
      const known = values.filter((v) => !Number.isNaN(v)).sort((a, b) => a - b);
      const [low, high] = [known[Math.floor(0.02 * known.length)] ?? 0, known[Math.ceil(0.98 * known.length) - 1] ?? 1];
      spans.forEach((span, i) => {
        const share = Math.min(1, Math.max(0, (values[i] - low) / (high - low || 1)));
        span.style.setProperty("--heat-of", Number.isNaN(share) ? "0" : share.toFixed(3));
      });
      by(`${select.dataset.passage}-scale`).textContent = `${plain(low)} to ${plain(high)}`;
    };
    select.addEventListener("change", paint);
    paint();
  }
}

// ---- table and theme

function sortable() {
  document.querySelectorAll("#points th button").forEach((button, index) => {
    button.addEventListener("click", () => {
      const heading = button.parentElement;
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      document.querySelectorAll("#points th").forEach((th) => th.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = document.querySelector("#points tbody");
      const value = (row) => row.cells[index].dataset.value;
      const order = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return rising ? difference : -difference;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

function theme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  by("theme").addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

legends();
rateDistortion();
rateBySplit();
link();
allocation();
heat();
sortable();
theme();
redraw();
