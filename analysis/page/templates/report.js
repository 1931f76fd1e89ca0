// Interactive curves over uPlot. Everything works from the keyboard; values at the cursor are announced as text.
(function () {
  "use strict";
  const root = document.getElementById("explorer");
  const groups = JSON.parse(document.getElementById("explorer-data").textContent);
  if (!root || !groups.length || typeof uPlot === "undefined") return;
  root.hidden = false;
  const byId = (id) => document.getElementById(id);
  const [model, series, log, reset, runs, stage, say] = ["model", "series", "log", "reset", "runs", "stage", "say"]
    .map((name) => byId("explorer-" + name));
  let plot = null;
  let group = groups[0];
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const label = (run) => run.variant + (run.verdict === "baseline" ? " (baseline)" : "") + ", " + run.policy + ", seed " + run.seed;
  const shortText = (value) => (value === null || value === undefined ? "no number" : String(Number(value.toPrecision(6))));

  groups.forEach((one, index) => model.add(new Option(one.name, String(index))));

  // At first: the baseline, and each variant under the first order that is not program order.
  function initial(run) {
    const orders = group.runs.filter((one) => one.verdict !== "baseline").map((one) => one.policy);
    const order = orders.find((one) => one !== "eager") || orders[0];
    return run.verdict === "baseline" ? run === group.runs.find((one) => one.verdict === "baseline") : run.policy === order;
  }

  function fillRuns() {
    runs.replaceChildren(...group.runs.map((run, index) => {
      const row = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: initial(run), value: String(index) });
      const swatch = document.createElement("i");
      swatch.style.background = run.colour;
      swatch.setAttribute("aria-hidden", "true");
      row.append(box, swatch, label(run) + ": " + run.verdict + (run.bad === null ? "" : " at " + run.bad));
      box.addEventListener("change", draw);
      return row;
    }));
  }

  const chosen = () => [...runs.querySelectorAll("input:checked")].map((box) => group.runs[Number(box.value)]);

  function axis(name) {
    return { label: name, stroke: ink("ink"), grid: { stroke: ink("grid"), width: 1 }, ticks: { stroke: ink("grid"), width: 1 },
      font: "12px system-ui", labelFont: "12px system-ui" };
  }

  function draw() {
    const shown = chosen();
    const zoom = plot && plot.scales.x.min !== undefined && plot.zoomed ? { min: plot.scales.x.min, max: plot.scales.x.max } : null;
    if (plot) plot.destroy();
    const name = series.value === "loss" ? "loss (nats per token)" : "gradient norm";
    plot = new uPlot({
      width: stage.clientWidth, height: Math.max(260, Math.min(420, stage.clientWidth * 0.55)),
      scales: { x: { time: false }, y: { distr: log.checked ? 3 : 1 } },
      cursor: { drag: { x: true, y: false }, focus: { prox: 24 } },
      axes: [axis("step"), { ...axis(name), size: 64 }],
      legend: { live: true },
      series: [{ label: "step" }, ...shown.map((run) => ({
        label: label(run), stroke: run.variant === "zero3" ? ink("muted") : run.colour, dash: run.dash,
        width: run.verdict === "baseline" ? 4 : 1.6, alpha: run.verdict === "baseline" ? 0.5 : 1, spanGaps: false,
        points: { show: (u, i) => run[series.value].filter((v) => v !== null).length < 3 },
        value: (u, value, series, index) => (index === null || index === undefined ? "–" : shortText(value)),
      }))],
      hooks: {
        setCursor: [announce],
        setScale: [(u, key) => {
          if (key === "x") stage.dataset.shows = Math.ceil(u.scales.x.min) + " to " + Math.floor(u.scales.x.max);
        }],
        setSelect: [() => { plot.zoomed = true; }],
        draw: [(u) => shown.forEach((run) => mark(u, run))],
      },
    }, [group.steps, ...shown.map((run) => log.checked ? run[series.value].map((v) => (v > 0 ? v : null)) : run[series.value])], stage);
    if (zoom) { plot.zoomed = true; plot.setScale("x", zoom); }
  }

  // The first bad step, as a sign at the upper edge.
  function mark(u, run) {
    if (run.bad === null) return;
    const x = u.valToPos(run.bad, "x", true);
    if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) return;
    const r = 5 * devicePixelRatio, y = u.bbox.top + r;
    u.ctx.save();
    u.ctx.strokeStyle = run.colour;
    u.ctx.lineWidth = 2.5 * devicePixelRatio;
    u.ctx.beginPath();
    u.ctx.moveTo(x - r, y - r); u.ctx.lineTo(x + r, y + r); u.ctx.moveTo(x + r, y - r); u.ctx.lineTo(x - r, y + r);
    u.ctx.stroke();
    u.ctx.restore();
  }

  let spoken = null;
  function announce(u) {
    if (u.cursor.idx === null || u.cursor.idx === undefined || document.activeElement !== stage) return;
    clearTimeout(spoken);
    const index = u.cursor.idx;
    spoken = setTimeout(() => {
      say.textContent = "Step " + group.steps[index] + ". " +
        chosen().map((run) => label(run) + ": " + shortText(run[series.value][index])).join("; ") + ".";
    }, 120);
  }

  function zoomBy(factor) {
    const { min, max } = plot.scales.x;
    const at = plot.cursor.idx === null || plot.cursor.idx === undefined ? (min + max) / 2 : group.steps[plot.cursor.idx];
    plot.zoomed = true;
    plot.setScale("x", { min: Math.max(group.steps[0], at - (at - min) * factor),
      max: Math.min(group.steps[group.steps.length - 1], at + (max - at) * factor) });
  }

  function unzoom() { plot.zoomed = false; plot.setData(plot.data, true); }

  stage.addEventListener("keydown", (event) => {
    const last = group.steps.length - 1;
    const now = plot.cursor.idx === null || plot.cursor.idx === undefined ? 0 : plot.cursor.idx;
    const jump = event.shiftKey ? 10 : 1;
    const next = { ArrowRight: Math.min(last, now + jump), ArrowLeft: Math.max(0, now - jump), Home: 0, End: last }[event.key];
    if (next !== undefined) {
      plot.setCursor({ left: plot.valToPos(group.steps[next], "x"), top: 10 });
    } else if (event.key === "+" || event.key === "=") { zoomBy(0.5);
    } else if (event.key === "-") { zoomBy(2);
    } else if (event.key === "0") { unzoom();
    } else { return; }
    event.preventDefault();
  });

  model.addEventListener("change", () => { group = groups[Number(model.value)]; if (plot) plot.zoomed = false; fillRuns(); draw(); });
  series.addEventListener("change", draw);
  log.addEventListener("change", draw);
  reset.addEventListener("click", unzoom);
  byId("explorer-all").addEventListener("click", () => { runs.querySelectorAll("input").forEach((box) => { box.checked = true; }); draw(); });
  byId("explorer-none").addEventListener("click", () => { runs.querySelectorAll("input").forEach((box) => { box.checked = false; }); draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => { if (plot && stage.clientWidth && stage.clientWidth !== plot.width) draw(); }).observe(stage);
  fillRuns();
  draw();
})();
