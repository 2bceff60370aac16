/* Figures that move: axes, curves and controls as SVG and plain HTML, nothing from a network.

   A page carries <div class="interactive" data-figure="NAME"><script type="application/json">data</script></div>, and
   kd.figure(NAME, describe) says how to draw it: describe(data) returns {title, controls, panels, draw}, and
   draw(values) returns {panels: [[item, ...], ...], said}. Without a script, and in print, the page's static figure is
   there instead: data-replaces names it. */
window.kd = window.kd || {};
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 380, HEIGHT = 270, LEFT = 52, RIGHT = 12, TOP = 26, BOTTOM = 42;
  const described = {};
  let clips = 0;

  const make = (name, attributes = {}, parent = null, text = null) => {
    const drawn = ["svg", "g", "path", "line", "circle", "rect", "text", "clipPath", "title"].includes(name);
    const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };

  function scale([low, high], [from, to], log) {
    const place = log ? v => Math.log10(Math.max(v, low / 1e3)) : v => v;
    const a = place(low), b = place(high);
    const forward = v => from + ((place(v) - a) / (b - a)) * (to - from);
    forward.inverse = pixel => {
      const v = a + ((pixel - from) / (to - from)) * (b - a);
      return log ? 10 ** v : v;
    };
    return forward;
  }

  function ticks([low, high], log) {
    if (log) {
      const found = [], step = Math.ceil(Math.log10(high / low) / 6) || 1;
      for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e += step) found.push(10 ** e);
      return found.length > 1 ? found : [low, high];
    }
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(Math.abs(v) < 1e-12 ? 0 : v);
    return found;
  }

  const short = v => {
    if (v === 0) return "0";
    const size = Math.abs(v);
    if (size >= 1e4 || size < 1e-3) {
      const [digits, power] = v.toExponential(Math.abs(Math.log10(size) % 1) < 1e-9 ? 0 : 1).replace("+", "").split("e");
      const raised = [...power].map(one => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(one)]).join("");
      return `${{ "1": "", "-1": "−" }[digits] ?? `${digits}·`}10${raised}`;
    }
    return String(Number(v.toPrecision(3)));
  };
  kd.short = short;

  class Panel {
    constructor(spec, parent) {
      this.spec = spec;
      this.box = make("div", { class: "interactive-panel" }, parent);
      if (spec.legend) {
        const list = make("ul", { class: "interactive-legend" }, this.box);
        for (const [name, style, mark = "line"] of spec.legend) make("li", { class: `ink-${style} mark-${mark}` }, list, name);
      }
      this.svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${spec.title || ""}: ${spec.ylabel} over ${spec.xlabel}` }, this.box);
      this.axes();
    }

    axes() {
      const { spec, svg } = this;
      this.x = scale(spec.x, [LEFT, WIDTH - RIGHT], spec.logX);
      this.y = scale(spec.y, [HEIGHT - BOTTOM, TOP], spec.logY);
      const clip = `kd-clip-${clips++}`;
      make("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }, make("clipPath", { id: clip }, svg));
      for (const v of ticks(spec.x, spec.logX)) {
        make("line", { class: "grid", x1: this.x(v), x2: this.x(v), y1: TOP, y2: HEIGHT - BOTTOM }, svg);
        make("text", { class: "tick", x: this.x(v), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, svg, short(v));
      }
      for (const v of ticks(spec.y, spec.logY)) {
        make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: this.y(v), y2: this.y(v) }, svg);
        make("text", { class: "tick", x: LEFT - 6, y: this.y(v) + 4, "text-anchor": "end" }, svg, short(v));
      }
      make("text", { class: "axis", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, svg, spec.xlabel);
      make("text", { class: "axis", x: 2, y: 14 }, svg, spec.ylabel);
      this.ink = make("g", { "clip-path": `url(#${clip})` }, svg);
    }

    draw(items) {
      this.ink.replaceChildren();
      for (const item of items) this[item.kind](item);
    }

    points(xs, ys) {
      return xs.map((x, i) => [this.x(x), this.y(ys[i])]).filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b));
    }

    line({ x, y, style = "blue", dash = "", width = 2.2 }) { // NaN lifts the pen
      let d = "", down = false;
      x.forEach((v, i) => {
        const a = this.x(v), b = this.y(y[i]);
        if (Number.isFinite(a) && Number.isFinite(b)) d += `${down ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`;
        down = Number.isFinite(a) && Number.isFinite(b);
      });
      make("path", { class: `line ink-${style}`, d, "stroke-dasharray": dash, "stroke-width": width }, this.ink);
    }

    band({ x, low, high, style = "sky" }) {
      const there = this.points(x, low), back = this.points(x, high).reverse();
      const d = [...there, ...back].map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("") + "Z";
      make("path", { class: `band ink-${style}`, d }, this.ink);
    }

    dots({ x, y, style = "vermilion", radius = 3.5 }) {
      for (const [a, b] of this.points(x, y)) make("circle", { class: `dot ink-${style}`, cx: a.toFixed(1), cy: b.toFixed(1), r: radius }, this.ink);
    }

    bars({ x, y, style = "blue", width = 0.8, hollow = false }) {
      x.forEach((v, i) => {
        const a = this.x(v - width / 2), b = this.x(v + width / 2), zero = this.y(this.spec.y[0]), top = this.y(y[i]);
        make("rect", { class: `${hollow ? "hollow" : "bar"} ink-${style}`, x: a, width: Math.max(0, b - a), y: Math.min(top, zero), height: Math.abs(zero - top) }, this.ink);
      });
    }

    rule({ x, y, style = "muted", dash = "4 3" }) {
      const at = x === undefined ? { x1: LEFT, x2: WIDTH - RIGHT, y1: this.y(y), y2: this.y(y) } : { x1: this.x(x), x2: this.x(x), y1: TOP, y2: HEIGHT - BOTTOM };
      make("line", { class: `line ink-${style}`, "stroke-dasharray": dash, "stroke-width": 1.4, ...at }, this.ink);
    }

    text({ x, y, text, style = "text", anchor = "start" }) {
      make("text", { class: `note ink-${style}`, x: this.x(x), y: this.y(y), "text-anchor": anchor }, this.ink, text);
    }
  }

  /* A control's value, from and to the position 0..1000 of its slider. */
  const position = (c, value) => Math.round(1000 * (c.log ? Math.log(value / c.min) / Math.log(c.max / c.min) : (value - c.min) / (c.max - c.min)));
  function valueAt(c, at) {
    const raw = c.log ? c.min * (c.max / c.min) ** (at / 1000) : c.min + ((c.max - c.min) * at) / 1000;
    return c.step ? Math.min(c.max, Math.max(c.min, Math.round(raw / c.step) * c.step)) : raw;
  }

  function build(host) {
    const data = JSON.parse(host.querySelector("script[type='application/json']").textContent);
    const spec = described[host.dataset.figure](data);
    const values = {}, inputs = {};
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", spec.title);
    make("p", { class: "interactive-title" }, host, spec.title);
    const row = make("div", { class: "interactive-panels" }, host);
    const panels = spec.panels.map(panel => new Panel(panel, row));
    const controls = make("div", { class: "interactive-controls" }, host);
    const said = make("p", { class: "interactive-said", "aria-live": "polite" }, host);

    const update = () => {
      const drawn = spec.draw(values);
      panels.forEach((panel, i) => panel.draw(drawn.panels[i]));
      said.textContent = drawn.said;
      for (const c of spec.controls) if (inputs[c.name].shown) {
        inputs[c.name].shown.textContent = (c.format || short)(values[c.name]);
        inputs[c.name].input.setAttribute("aria-valuetext", inputs[c.name].shown.textContent);
      }
    };
    const set = (name, value) => {
      const c = spec.controls.find(one => one.name === name), { input } = inputs[name];
      values[name] = value;
      input.value = c.options ? value : position(c, value);
      update();
    };
    for (const c of spec.controls) {
      const field = make("label", { class: "interactive-control" }, controls);
      make("span", {}, field, c.label);
      values[c.name] = c.value;
      if (c.options) {
        const input = make("select", { "data-control": c.name, "aria-label": c.label }, field);
        for (const [value, text] of c.options) make("option", { value }, input, text);
        input.value = c.value;
        input.addEventListener("change", () => { values[c.name] = input.value; update(); });
        inputs[c.name] = { input };
      } else {
        const shown = make("output", {}, field);
        const input = make("input", { type: "range", min: 0, max: 1000, step: 1, "data-control": c.name, "aria-label": c.label }, field);
        input.value = position(c, c.value);
        input.addEventListener("input", () => { values[c.name] = valueAt(c, Number(input.value)); update(); });
        if (c.step) input.addEventListener("keydown", event => { // one step, where a thousandth of the way is less
          const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          if (!by) return;
          event.preventDefault();
          set(c.name, Math.min(c.max, Math.max(c.min, values[c.name] + by * c.step)));
        });
        inputs[c.name] = { input, shown };
      }
    }
    const again = make("button", { type: "button", class: "interactive-reset" }, controls, "Reset");
    again.addEventListener("click", () => spec.controls.forEach(c => set(c.name, c.value)));

    panels.forEach(panel => { // the figure itself can be dragged where its axis is a control's
      const c = spec.controls.find(one => one.name === panel.spec.drag);
      if (!c) return;
      panel.svg.classList.add("draggable");
      const follow = event => {
        const box = panel.svg.getBoundingClientRect();
        const v = panel.x.inverse(((event.clientX - box.left) / box.width) * WIDTH);
        const inside = Math.min(c.max, Math.max(c.min, v));
        set(c.name, c.step ? Math.round(inside / c.step) * c.step : inside);
      };
      panel.svg.addEventListener("pointerdown", event => { panel.svg.setPointerCapture(event.pointerId); follow(event); });
      panel.svg.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
    });

    const printed = document.getElementById(host.dataset.replaces);
    if (printed) { // the static figure is folded below this one; print opens it
      const folded = make("details", { class: "in-print" });
      const number = printed.querySelector(".caption-number"), named = number ? number.textContent.trim() : "the figure";
      make("summary", {}, folded, `${named} as printed`);
      host.querySelector(".interactive-title").prepend(number ? `${named}, in motion. ` : "");
      printed.replaceWith(folded);
      folded.append(printed);
      folded.before(host);
    }
    host.classList.add("ready");
    host.kd = { values, set };
    update();
  }

  kd.figure = (name, describe) => { described[name] = describe; };
  kd.build = () => document.querySelectorAll(".interactive[data-figure]:not(.ready)").forEach(build);
  document.addEventListener("DOMContentLoaded", () => kd.build());
})();
