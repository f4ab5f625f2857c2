"use strict";
// Numbers as text, equal to number() and seconds() in scaler/report/text/format.py. All scripts of a page share these names.

const VAST = 1e15; // from here on, a power of ten replaces the digits

/** A number with `count` significant digits, as Python's "%.<count>g" writes it: a tie is rounded to the even digit. */
function significant(value, count) {
  const exact = Math.abs(value).toExponential(80), digits = exact.replace(".", "");
  const isTieBelow = "02468".includes(digits[count - 1]) && /^50*e/.test(digits.slice(count));
  const [down, power] = [digits.slice(0, count), Number(exact.split("e")[1])];
  const size = isTieBelow ? Number(`${down}e${power - count + 1}`) : Number(Math.abs(value).toPrecision(count));
  const sign = value < 0 ? "-" : "";
  if (size !== 0 && (size < 1e-4 || size >= 10 ** count)) {
    return sign + size.toExponential().replace(/([+-])(\d)$/, "$10$2");
  }
  return sign + String(size);
}

function format(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size < 999.95 || size >= VAST) return significant(value, 4);
  return value.toLocaleString("en-US", { maximumFractionDigits: 0, roundingMode: "halfEven" });
}

/** A time in the unit that suits its size. */
function seconds(value) {
  if (value == null) return "–";
  if (value < 0.9995) return `${significant(value * 1000, 3)} ms`;
  if (value < 60) return `${significant(value, 3)} s`;
  const whole = Math.floor(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** A number beside an axis, as short as possible. */
function tick(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size >= VAST || (size !== 0 && size < 1e-3)) return Number(value.toPrecision(6)).toExponential().replace("e+", "e");
  if (size >= 1e6) return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 4 });
  return value.toLocaleString("en-US", { maximumFractionDigits: 6 });
}

const secondsTick = (value) => (value == null ? "" : seconds(value).replace(/ 0 (s|min)$/, ""));

const plural = (number, noun) => `${format(number)} ${noun}${number === 1 ? "" : "s"}`;
