"use strict";
// Numbers, as the page's own text has them: 4 significant digits. A page's scripts see each other's names.

const VAST = 1e15; // from here on digits say less than the power of ten

function format(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= VAST) return value.toExponential(3).replace("e+", "e");
  if (Number.isInteger(value) || size >= 1e4) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  const text = Number(value.toPrecision(4));
  return size < 1e-4 ? text.toExponential().replace(/-(\d)$/, "-0$1") : String(text);
}

/** A number beside an axis: as short as it can be said. */
function tick(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size >= VAST || (size !== 0 && size < 1e-3)) return Number(value.toPrecision(6)).toExponential().replace("e+", "e");
  if (size >= 1e6) return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 4 });
  return value.toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** A time in the unit that suits it. */
function seconds(value) {
  if (value == null) return "–";
  if (value < 0.9995) return `${Number((value * 1000).toPrecision(3))} ms`;
  if (value < 60) return `${Number(value.toPrecision(3))} s`;
  const whole = Math.floor(value), rest = whole % 60;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${rest ? ` ${rest} s` : ""}`;
  return `${Math.floor(whole / 3600)} h${whole % 3600 >= 60 ? ` ${Math.floor((whole % 3600) / 60)} min` : ""}`;
}

const plural = (number, noun) => `${format(number)} ${noun}${number === 1 ? "" : "s"}`;
