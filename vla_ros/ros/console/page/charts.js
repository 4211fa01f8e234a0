// SPDX-License-Identifier: Apache-2.0
// Small charts on canvases: time runs to the right edge, which is now.

export const WINDOW_S = 30;

/** Points of the last 30 s; null is a gap. */
export class Series {
  constructor() {
    this.points = [];
  }

  add(time_s, value) {
    this.points.push([time_s, value]);
    while (this.points.length && this.points[0][0] < time_s - WINDOW_S - 1) this.points.shift();
  }

  get values() {
    return this.points.map((point) => point[1]).filter((value) => value !== null);
  }
}

/** Low and high of an axis that shows all values, and at least 0 to `least`; motions keep their zero in the middle. */
export function range(values, least) {
  values = [...values, least];
  const low = Math.min(...values), high = Math.max(...values);
  if (low < 0) {
    const most = Math.max(-low, high, 1e-6) * 1.15;
    return [-most, most];
  }
  return [-0.08 * high, 1.15 * high];
}

/** Draws lines [{series, colour, width}] and horizontal rules [value]. */
export function draw(canvas, now_s, [low, high], lines, rules, ruleColour) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const x = (time_s) => width - 4 + ((time_s - now_s) / WINDOW_S) * (width - 4);
  const y = (value) => 3 + (height - 6) * (1 - (value - low) / (high - low));
  context.strokeStyle = ruleColour;
  context.lineWidth = 1;
  for (const rule of rules) {
    context.beginPath();
    context.moveTo(0, Math.round(y(rule)) + 0.5);
    context.lineTo(width, Math.round(y(rule)) + 0.5);
    context.stroke();
  }
  for (const { series, colour, width: stroke } of lines) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = stroke;
    context.lineJoin = 'round';
    context.beginPath();
    let gap = true, last = null;
    for (const [time_s, value] of series.points) {
      if (value === null) {
        gap = true;
        continue;
      }
      if (gap) context.moveTo(x(time_s), y(value));
      else context.lineTo(x(time_s), y(value));
      gap = false;
      last = [time_s, value];
    }
    context.stroke();
    if (last && !gap) {
      context.beginPath();
      context.arc(x(last[0]), y(last[1]), stroke + 1, 0, 7);
      context.fill();
    }
  }
}
