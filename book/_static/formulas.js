/* Closed forms behind the figures that move. No drawing here: tests/test_figures.py compares each with kdlib. */
window.kd = window.kd || {};
kd.formulas = (() => {
  "use strict";
  const sigmoid = z => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const logSigmoid = z => (z >= 0 ? -Math.log1p(Math.exp(-z)) : z - Math.log1p(Math.exp(z)));
  const log1mexp = x => (x < Math.LN2 ? Math.log(-Math.expm1(-x)) : Math.log1p(-Math.exp(-x))); // log(1 - e^-x)
  const sum = (values, of = v => v) => values.reduce((total, v, i) => total + of(v, i), 0);
  const loudness = (temperature, scaling) => (scaling === "squared" ? temperature ** 2 : 1); // c_T

  /* E1: the root of the loss's gradient, by bisection of the equation in which nothing cancels (2.3). */
  function effectiveLogit(teacher, label, ratio, temperature, scaling) {
    if (ratio === 1) return teacher;
    const a = label * teacher, T = temperature;
    const logQ = Math.log(((1 - ratio) * T) / (ratio * loudness(T, scaling)));
    const above = u => log1mexp((u - a) / T) + logSigmoid(u / T) + logSigmoid(-a / T) - logQ - logSigmoid(-u) > 0;
    let step = 1;
    while (!above(a + step)) step *= 2;
    let low = a, high = a + step;
    for (let k = 0; k < 90; k++) {
      const middle = (low + high) / 2;
      if (above(middle)) high = middle; else low = middle;
    }
    return label * (low + high) / 2;
  }

  /* E4 for two classes. */
  const isCorrected = (teacher, label, ratio, temperature, scaling) =>
    1 - ratio > -ratio * (loudness(temperature, scaling) / temperature) * Math.tanh((label * teacher) / (2 * temperature));

  const correctionThreshold = (temperature, scaling) => temperature / (temperature + loudness(temperature, scaling));

  /* The circle's kernel: 1 + sum_k k^(-2 decay) cos k d. */
  function circleKernel(frequencies, decay) {
    const weights = Array.from({ length: frequencies }, (_, k) => (k + 1) ** (-2 * decay));
    return (a, b) => 1 + sum(weights, (weight, k) => weight * Math.cos((k + 1) * (a - b)));
  }

  /* R5: norms, predictions and power functions of every n at once, as running sums of one factor's columns. */
  function paths(kernel, inputs, targets, at) {
    const factor = [], solved = [];
    const forward = (column, value, i) => {
      let left = value;
      for (let k = 0; k < i; k++) left -= factor[i][k] * column[k];
      return left / factor[i][i];
    };
    inputs.forEach((x, i) => {
      factor[i] = [];
      for (let j = 0; j <= i; j++) {
        let left = kernel(x, inputs[j]);
        for (let k = 0; k < j; k++) left -= factor[i][k] * factor[j][k];
        factor[i][j] = i === j ? Math.sqrt(left) : left / factor[j][j];
      }
      solved[i] = forward(solved, targets[i], i);
    });
    const columns = at.map(x => {
      const column = [];
      inputs.forEach((input, i) => column.push(forward(column, kernel(x, input), i)));
      return column;
    });
    const diagonal = kernel(0, 0), first = (values, n, of) => sum(values.slice(0, n), of);
    return n => ({
      squaredNorm: first(solved, n, v => v * v),
      student: columns.map(column => first(column, n, (v, i) => v * solved[i])),
      power: columns.map(column => Math.sqrt(Math.max(0, diagonal - first(column, n, v => v * v)))),
    });
  }

  /* D1 between two sample sizes, and B2's complexity term of a normalised kernel. */
  const inefficiency = (norms, sizes) => Math.log(norms[1] / norms[0]) / Math.log(sizes[1] / sizes[0]);
  const complexityTerm = (squaredNorm, n, margin) => (2 * Math.sqrt(squaredNorm / n)) / margin;

  /* H4, from the Gram's eigenvalues, the labels' coefficients c, the second moments B and b of the modes at held-out
     inputs (with themselves, with the truth), and the truth's second moment. */
  function bestMixture(problem, ridge) {
    const { eigenvalues, coefficients, moments, cross, truth } = problem;
    const form = (u, v) => sum(u, (a, i) => a * sum(v, (w, j) => w * moments[i >= j ? (i * (i + 1)) / 2 + j : (j * (j + 1)) / 2 + i]));
    const teacher = eigenvalues.map((value, i) => coefficients[i] / (value + ridge));
    const slope = teacher.map((value, i) => -value / (eigenvalues[i] + ridge));
    const risk = form(teacher, teacher) - 2 * sum(teacher, (v, i) => v * cross[i]) + truth;
    const slant = form(teacher, slope) - sum(slope, (v, i) => v * cross[i]), curvature = form(slope, slope);
    const of = share => risk + 2 * share * ridge * slant + (share * ridge) ** 2 * curvature;
    return { share: -slant / (ridge * curvature), risk: risk - slant ** 2 / curvature, teacherRisk: risk, of };
  }

  /* S3, of a kernel whose diagonal is one: each term. `achieved` are the margins on the sample. */
  function marginBound(achieved, norm, { margin, margins, unit, delta, choices }) {
    const n = achieved.length, level = Math.max(1, Math.ceil(norm / unit - 1e-12));
    return {
      ramp: sum(achieved, m => Math.min(1, Math.max(0, 1 - m / margin))) / n,
      complexity: (2 * level * unit) / (margin * Math.sqrt(n)),
      confidence: Math.sqrt(Math.log((level * (level + 1) * margins * choices) / delta) / (2 * n)),
    };
  }

  /* T1, T3: two examples of a given correlation. */
  const softened = (logit, temperature) => Math.tanh(logit / (2 * temperature));
  const pairComplexity = (g, h, correlation) => (g * g + h * h - 2 * correlation * g * h) / (1 - correlation ** 2);

  /* O1, N2, W1: how much of a mode is learnt. */
  const offlineFilter = x => -Math.expm1(-x);
  function onlineFilter(x, speed) {
    const a = x, b = speed * x, gap = Math.abs(a - b);
    return -Math.expm1(-x) - x * Math.exp(-Math.min(a, b)) * (gap === 0 ? 1 : -Math.expm1(-gap) / gap);
  }
  function selfDistillationFilter(eigenvalue, ridge, rounds, labelShare) {
    const once = eigenvalue / (eigenvalue + ridge), limit = (labelShare * eigenvalue) / (ridge + labelShare * eigenvalue);
    return limit + ((1 - labelShare) * once) ** (rounds - 1) * (once - limit);
  }

  return {
    bestMixture, circleKernel, complexityTerm, correctionThreshold, effectiveLogit, inefficiency, isCorrected, marginBound,
    offlineFilter, onlineFilter, pairComplexity, paths, selfDistillationFilter, sigmoid, softened,
  };
})();
