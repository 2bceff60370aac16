/* The book's figures that move. Each says what can be changed and how it is drawn; the formulas are in formulas.js. */
(() => {
  "use strict";
  const { figure, formulas: f, short } = window.kd;
  const range = (count, of) => Array.from({ length: count }, (_, k) => of(k / (count - 1), k));
  const linear = (low, high, count) => range(count, t => low + t * (high - low));
  const geometric = (low, high, count) => range(count, t => low * (high / low) ** t);
  const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const mean = values => values.reduce((a, b) => a + b, 0) / values.length;

  /* E1 to E4: a perfect teacher's supervision, and which of a real teacher's errors the effective labels correct. */
  figure("effective-labels", data => ({
    title: "Drag the soft ratio: the supervision tears at zero, and errors change sides.",
    controls: [
      { name: "ratio", label: "soft ratio ρ", min: 0.05, max: 1, step: 0.01, value: 0.65 },
      { name: "temperature", label: "temperature T", min: 0.25, max: 8, log: true, value: 1 },
      { name: "scaling", label: "weight c_T", options: [["none", "1"], ["squared", "T²"]], value: "none" },
    ],
    panels: [
      { xlabel: "teacher's logit", ylabel: "effective logit of a perfect teacher", x: [-4, 4], y: [-6, 6], legend: [["effective logit", "blue"], ["the teacher's own", "muted", "dash"]] },
      { xlabel: "wrong teacher's logit, towards the wrong class", ylabel: "effective logit, towards the true class", x: [0, data.reach], y: [-4, 4],
        legend: [["error corrected", "green", "dot"], ["error kept", "vermilion", "dot"]] },
    ],
    draw({ ratio, temperature, scaling }) {
      const logit = (z, label) => f.effectiveLogit(z, label, ratio, temperature, scaling);
      const right = linear(1e-6, 4, 60), up = right.map(z => logit(z, 1));
      const corrected = data.errors.map(z => f.isCorrected(-z, 1, ratio, temperature, scaling));
      const dots = kept => data.errors.filter((_, i) => corrected[i] === kept);
      const drawn = [[true, "green"], [false, "vermilion"]].map(([kept, style]) => ({
        kind: "dots", style, radius: 2.6, x: dots(kept), y: dots(kept).map(z => logit(-z, 1)) }));
      const threshold = f.correctionThreshold(temperature, scaling), share = mean(corrected.map(Number));
      return {
        panels: [
          [{ kind: "line", x: [-4, 4], y: [-4, 4], style: "muted", dash: "4 3" },
            { kind: "line", x: right.map(z => -z).reverse(), y: up.map(z => -z).reverse() }, { kind: "line", x: right, y: up }],
          [{ kind: "rule", y: 0 }, ...drawn],
        ],
        said: `The supervision ${up[0] < 1e-4 ? "does not jump" : `jumps by ${short(2 * up[0])}`} at the teacher's boundary. ${corrected.filter(Boolean).length} of ${data.errors.length} errors are corrected (${percent(share)}); ` +
          `below ρ = ${short(threshold)} all of every teacher's are.`,
      };
    },
  }));

  /* R3, R4, R5: what a student of the circle can certify after n examples. */
  figure("agreement", data => {
    const kernel = f.circleKernel(data.frequencies, data.decay), grid = linear(0, 2 * Math.PI, 241);
    const teacher = theta => data.cosines.reduce((s, [k, a]) => s + a * Math.cos(k * theta), 0) + data.sines.reduce((s, [k, b]) => s + b * Math.sin(k * theta), 0);
    const truth = grid.map(teacher), at = f.paths(kernel, data.inputs, data.inputs.map(teacher), grid);
    const weights = [...data.cosines, ...data.sines].reduce((s, [k, v]) => s + (k ** data.decay * v) ** 2, 0);
    const found = range(data.inputs.length, (_, k) => {
      const { squaredNorm, student, power } = at(k + 1), room = Math.sqrt(Math.max(0, weights - squaredNorm));
      const width = power.map(p => p * room), sure = student.map((v, i) => Math.abs(v) > width[i]);
      return { student, width, sure, certified: mean(sure.map(Number)),
        wrong: mean(student.map((v, i) => Number(v * truth[i] <= 0))), doubt: mean(truth.map((v, i) => Number(Math.abs(v) <= width[i]))) };
    });
    const sizes = found.map((_, k) => k + 1);
    return {
      title: "Drag the number of examples: where must student and teacher agree?",
      controls: [{ name: "n", label: "examples n", min: 1, max: data.inputs.length, step: 1, value: Math.min(16, data.inputs.length) }],
      panels: [
        { xlabel: "input: an angle", ylabel: "answer (logit)", x: [0, 2 * Math.PI], y: [-5.5, 6], legend: [["teacher", "text", "dash"], ["student", "blue"], ["the teacher must be in here", "sky", "band"], ["agreement certain", "green", "band"], ["examples", "vermilion", "dot"]] },
        { xlabel: "examples n (drag)", ylabel: "share of inputs", x: [1, data.inputs.length], y: [0, 1], drag: "n", legend: [["student differs", "text", "dash"], ["bound (R3)", "blue"], ["agreement certain", "green"]] },
      ],
      draw({ n }) {
        const { student, width, sure, certified, wrong, doubt } = found[n - 1];
        const known = data.inputs.slice(0, n);
        return {
          panels: [
            [{ kind: "band", x: grid, low: student.map((v, i) => v - width[i]), high: student.map((v, i) => v + width[i]) }, { kind: "rule", y: 0 },
              { kind: "line", x: grid, y: truth, style: "text", dash: "2 3" }, { kind: "line", x: grid, y: student },
              { kind: "line", style: "green", width: 7, x: grid, y: sure.map(s => (s ? -5.2 : NaN)) },
              { kind: "dots", x: known, y: known.map(teacher) }],
            [{ kind: "rule", x: n }, { kind: "line", x: sizes, y: found.map(v => v.wrong), style: "text", dash: "2 3" },
              { kind: "line", x: sizes, y: found.map(v => v.doubt) }, { kind: "line", x: sizes, y: found.map(v => v.certified), style: "green" },
              { kind: "dots", x: [n, n, n], y: [wrong, doubt, certified], style: "vermilion" }],
          ],
          said: `After ${n} example${n === 1 ? "" : "s"} the student differs from its teacher on ${percent(wrong)} of the circle; the bound allows ${percent(doubt)}. On ${percent(certified)} their agreement is certain.`,
        };
      },
    };
  });

  /* D1 and B2: the slope of the norm is the direction of the bound. */
  figure("norm-and-bound", data => ({
    title: "Drag along the examples: the slope of the norm decides which way the bound goes.",
    controls: [
      { name: "n", label: "examples n", min: data.sizes[2], max: data.sizes[data.sizes.length - 3], log: true, value: data.sizes[Math.floor(data.sizes.length / 2)], format: v => String(Math.round(v)) },
      { name: "curve", label: "supervision", options: Object.keys(data.norms).map(name => [name, name]), value: Object.keys(data.norms).pop() },
    ],
    panels: [
      { xlabel: "examples n (drag)", ylabel: "squared norm", x: [data.sizes[0], data.sizes[data.sizes.length - 1]], y: data.norm_range, logX: true, logY: true, drag: "n", legend: [["squared norm", "blue"], ["its slope, I(n)", "vermilion"], ["slope one", "muted", "dash"]] },
      { xlabel: "examples n (drag)", ylabel: "complexity term of the bound", x: [data.sizes[0], data.sizes[data.sizes.length - 1]], y: data.term_range, logX: true, logY: true, drag: "n", legend: [["complexity term", "blue"], ["which way it goes", "vermilion"]] },
    ],
    draw({ n, curve }) {
      const { sizes } = data, norms = data.norms[curve], last = sizes.length - 1;
      const near = sizes.reduce((best, s, i) => (Math.abs(Math.log(s / n)) < Math.abs(Math.log(sizes[best] / n)) ? i : best), 0);
      const i = Math.min(last - 2, Math.max(2, near)), m = sizes[i];
      const slope = f.inefficiency([norms[i - 2], norms[i + 2]], [sizes[i - 2], sizes[i + 2]]);
      const terms = norms.map((v, k) => f.complexityTerm(v, sizes[k], data.margin));
      const reach = [m / 2.2, m * 2.2], tangent = (level, rate) => reach.map(x => level * (x / m) ** rate);
      return {
        panels: [
          [{ kind: "line", x: sizes, y: norms }, { kind: "line", x: reach, y: tangent(norms[i], 1), style: "muted", dash: "4 3" },
            { kind: "line", x: reach, y: tangent(norms[i], slope), style: "vermilion" }, { kind: "dots", x: [m], y: [norms[i]] }],
          [{ kind: "line", x: sizes, y: terms }, { kind: "line", x: reach, y: tangent(terms[i], (slope - 1) / 2), style: "vermilion" }, { kind: "dots", x: [m], y: [terms[i]] }],
        ],
        said: `At n = ${m} the data inefficiency is I(n) = ${slope.toFixed(2)}: ${slope < 1 ? "below one, so the bound improves" : "one or above, so the bound does not improve"} with more examples.`,
      };
    },
  }));

  /* S3: a ramp loss that grows with the margin, a complexity that shrinks with it. */
  figure("certificate", data => ({
    title: "Drag the margin: what the ramp gains, the complexity pays.",
    controls: [
      { name: "margin", label: "margin γ", min: data.margins[0], max: data.margins[1], log: true, value: data.best },
      { name: "student", label: "student", options: Object.keys(data.students).map(name => [name, name]), value: Object.keys(data.students)[0] },
      { name: "delta", label: "may fail with probability δ", min: 1e-6, max: 0.3, log: true, value: 0.05 },
    ],
    panels: [{ xlabel: "margin γ (drag)", ylabel: "bound on the error", x: data.margins, y: [0, 1.2], logX: true, drag: "margin",
      legend: [["certificate", "text"], ["ramp loss", "blue", "dash"], ["complexity", "orange", "dash"], ["confidence", "sky", "dash"], ["measured error", "vermilion"]] }],
    draw({ margin, student, delta }) {
      const { achieved, norm, error } = data.students[student], grid = geometric(...data.margins, 80);
      const at = m => f.marginBound(achieved, norm, { margin: m, margins: data.grid, unit: data.unit, delta, choices: data.choices });
      const terms = grid.map(at), here = at(margin), total = t => t.ramp + t.complexity + t.confidence;
      const best = terms.reduce((least, t, i) => (total(t) < total(terms[least]) ? i : least), 0);
      return {
        panels: [[{ kind: "rule", y: 1 }, { kind: "rule", x: margin }, { kind: "rule", y: error, style: "vermilion", dash: "" },
          ...[["ramp", "blue"], ["complexity", "orange"], ["confidence", "sky"]].map(([name, style]) => ({ kind: "line", x: grid, y: terms.map(t => t[name]), style, dash: "5 3" })),
          { kind: "line", x: grid, y: terms.map(total), style: "text" }, { kind: "dots", x: [margin], y: [total(here)] }]],
        said: `At this margin the certificate is ${short(total(here))} (ramp ${short(here.ramp)}, complexity ${short(here.complexity)}, confidence ${short(here.confidence)}); the least is ${short(total(terms[best]))} at γ = ${short(grid[best])}. Measured: ${short(error)}.`,
      };
    },
  }));

  /* T3: a temperature walks across the square; the complexity is the ellipse that it is on. */
  figure("temperature-square", () => ({
    title: "Drag the temperature: two answers shrink, and their complexity may grow.",
    controls: [
      { name: "temperature", label: "temperature τ", min: 0.01, max: 100, log: true, value: 0.05 },
      { name: "correlation", label: "similarity of the two examples", min: -0.95, max: 0.95, step: 0.01, value: 0.9 },
      { name: "doubt", label: "second logit (the first is 1)", min: 0.01, max: 1, log: true, value: 0.05 },
    ],
    panels: [
      { xlabel: "first softened answer", ylabel: "second softened answer", x: [0, 1.15], y: [0, 1.15], legend: [["answers, by temperature", "blue"], ["as complex as the labels", "muted", "dash"], ["as complex as now", "vermilion"]] },
      { xlabel: "temperature τ (drag)", ylabel: "complexity, relative to the labels'", x: [0.01, 100], y: [0, 5], logX: true, drag: "temperature", legend: [["relative complexity", "blue"], ["the labels'", "muted", "dash"]] },
    ],
    draw({ temperature, correlation, doubt }) {
      const g = t => [f.softened(1, t), f.softened(doubt, t)], sc = ([a, b]) => f.pairComplexity(a, b, correlation);
      const labels = sc([1, 1]), grid = geometric(0.01, 100, 120), path = grid.map(g), ratios = path.map(v => sc(v) / labels);
      const ellipse = level => { // where the complexity is this level: in coordinates along and across the diagonal
        const turn = linear(0, 2 * Math.PI, 121), a = Math.sqrt((level * (1 + correlation)) / 2), b = Math.sqrt((level * (1 - correlation)) / 2);
        return { x: turn.map(t => a * Math.cos(t) + b * Math.sin(t)), y: turn.map(t => a * Math.cos(t) - b * Math.sin(t)) };
      };
      const now = g(temperature), ratio = sc(now) / labels, most = Math.max(...ratios);
      return {
        panels: [
          [{ kind: "line", ...ellipse(labels), style: "muted", dash: "4 3" }, { kind: "line", ...ellipse(sc(now)), style: "vermilion", width: 1.4 },
            { kind: "line", x: path.map(v => v[0]), y: path.map(v => v[1]) }, { kind: "dots", x: [now[0]], y: [now[1]], radius: 5 }],
          [{ kind: "rule", y: 1 }, { kind: "line", x: grid, y: ratios }, { kind: "dots", x: [temperature], y: [ratio], radius: 5 }],
        ],
        said: `Relative to the labels' the complexity is ${ratio.toFixed(2)}; on the way it reaches ${most.toFixed(2)}` +
          (correlation > 0.5 ? `, and no pair of logits can take it beyond ${(1 / (2 * (1 - correlation))).toFixed(2)}.` : "."),
      };
    },
  }));

  /* N2: an online student is late, most of all in the complex directions, where the noise is. */
  figure("online-filters", data => {
    const modes = linear(1, data.modes, data.modes), eigenvalues = modes.map(k => k ** -data.decay), energies = modes.map(k => k ** -data.smoothness);
    const times = geometric(0.3, 3000, 90), spectrum = geometric(1e-4, 1, 80);
    const share = (online, x, speed) => (online ? f.onlineFilter(x, speed) : f.offlineFilter(x));
    const error = (online, t, speed, noise) => eigenvalues.reduce((s, value, k) => {
      const h = share(online, value * t, speed);
      return s + (1 - h) ** 2 * energies[k] + h * h * noise;
    }, 0);
    return {
      title: "Drag the time across the minimum: who leads before, who leads after?",
      controls: [
        { name: "time", label: "time of training t", min: 0.3, max: 3000, log: true, value: 10 },
        { name: "speed", label: "teacher's speed r", min: 0.1, max: 10, log: true, value: 1 },
        { name: "noise", label: "noise in the labels, per direction", min: 1e-4, max: 0.03, log: true, value: 3e-3 },
      ],
      panels: [
        { xlabel: "eigenvalue: complex to simple", ylabel: "share learnt", x: [1e-4, 1], y: [0, 1.05], logX: true, legend: [["offline", "text"], ["online", "blue"]] },
        { xlabel: "time (drag)", ylabel: "squared error", x: [0.3, 3000], y: [1e-2, 3], logX: true, logY: true, drag: "time", legend: [["offline", "text"], ["online", "blue"]] },
      ],
      draw({ time, speed, noise }) {
        const curves = [false, true].map(online => times.map(t => error(online, t, speed, noise)));
        const now = [false, true].map(online => error(online, time, speed, noise)), least = curves.map(c => Math.min(...c));
        const gain = 1 - now[1] / now[0];
        return {
          panels: [
            [false, true].map(online => ({ kind: "line", style: online ? "blue" : "text", x: spectrum, y: spectrum.map(v => share(online, v * time, speed)) })),
            [{ kind: "rule", x: time }, ...curves.map((y, k) => ({ kind: "line", style: k ? "blue" : "text", x: times, y })), { kind: "dots", x: [time, time], y: now }],
          ],
          said: `At this time the online student's error is ${percent(Math.abs(gain))} ${gain > 0 ? "lower" : "higher"} than the offline one's. Each stopped at its best: ${short(least[1])} online, ${short(least[0])} offline.`,
        };
      },
    };
  });

  /* H4: the best share of the teacher, for each ridge. */
  figure("best-mixture", data => ({
    title: "A smaller problem than the printed figure's. Drag the ridge: the best share of the teacher moves, and need not lie between zero and one.",
    controls: [
      { name: "ridge", label: "ridge", min: data.ridges[0], max: data.ridges[1], log: true, value: data.ridge },
      { name: "share", label: "share of the teacher ξ", min: -2, max: 3, step: 0.05, value: 0.5 },
    ],
    panels: [
      { xlabel: "share of the teacher ξ (drag)", ylabel: "squared risk", x: [-2, 3], y: data.risks, drag: "share", legend: [["student", "blue"], ["the best share", "green", "dot"], ["your mixture", "vermilion", "dot"]] },
      { xlabel: "ridge (drag)", ylabel: "squared risk", x: data.ridges, y: data.risks, logX: true, drag: "ridge", legend: [["teacher (share zero)", "text"], ["student of the best mixture", "green"], ["your mixture", "vermilion", "dot"]] },
    ],
    draw({ ridge, share }) {
      const here = f.bestMixture(data.problem, ridge), grid = geometric(...data.ridges, 30), along = grid.map(r => f.bestMixture(data.problem, r));
      const shares = linear(-2, 3, 61);
      return {
        panels: [
          [{ kind: "rule", x: 0 }, { kind: "rule", x: 1 }, { kind: "line", x: shares, y: shares.map(here.of) }, { kind: "dots", x: [here.share], y: [here.risk], style: "green", radius: 5 },
            { kind: "dots", x: [share], y: [here.of(share)] }],
          [{ kind: "rule", x: ridge }, { kind: "line", x: grid, y: along.map(m => m.teacherRisk), style: "text" }, { kind: "line", x: grid, y: along.map(m => m.risk), style: "green" },
            { kind: "dots", x: [ridge], y: [here.of(share)] }],
        ],
        said: `With this ridge the best share is ${here.share.toFixed(2)}: risk ${short(here.risk)}, where the teacher has ${short(here.teacherRisk)} and your mixture ${short(here.of(share))}.`,
      };
    },
  }));

  /* W1: self-distillation is a filter of the spectrum. */
  figure("self-distillation", () => ({
    title: "Drag the number of fits in a row: without labels everything is forgotten, the complex first.",
    controls: [
      { name: "rounds", label: "fits in a row", min: 1, max: 40, step: 1, value: 4 },
      { name: "ridge", label: "ridge", min: 0.01, max: 100, log: true, value: 1 },
      { name: "share", label: "share of labels", min: 0, max: 1, step: 0.01, value: 0 },
    ],
    panels: [{ xlabel: "eigenvalue: complex to simple", ylabel: "share learnt", x: [1e-3, 1e3], y: [0, 1.05], logX: true, legend: [["now", "blue"], ["one fit", "text", "dash"], ["endless fits", "vermilion", "dash"]] }],
    draw({ rounds, ridge, share }) {
      const grid = geometric(1e-3, 1e3, 120), of = (k, s) => grid.map(v => f.selfDistillationFilter(v, ridge, k, s));
      const now = of(rounds, share), half = grid[now.findIndex(v => v > 0.5)];
      return {
        panels: [[{ kind: "line", x: grid, y: of(1, share), style: "text", dash: "2 3" }, { kind: "line", x: grid, y: of(1e6, share), style: "vermilion", dash: "6 3" }, { kind: "line", x: grid, y: now }]],
        said: half === undefined ? "No direction here keeps half of itself." : `Directions with an eigenvalue above ${short(half)} keep more than half of themselves; after one fit, those above ${short(ridge)}.`,
      };
    },
  }));
})();
