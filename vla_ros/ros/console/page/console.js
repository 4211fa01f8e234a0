// SPDX-License-Identifier: Apache-2.0
// What the page shows and what its keys do.

import { Events, StopLine, followPictures, post } from '/connection.js';
import { Series, draw, range } from '/charts.js';

const $ = (id) => document.getElementById(id);
const now = () => performance.now();
const OLD_MS = 2000; // the console speaks ten times a second
const PICTURE_OLD_S = 1; // an older picture is not shown as live
const CONFIRM_MS = 1000; // a stop takes effect within a period of some 20 ms
const ACTION_OLD_S = 0.5;
const STATES = { inactive: 'Not active', idle: 'Idle', holding: 'Holding', acting: 'Acting', latched: 'Stopped', fault: 'Fault' };
const STANDS = ['latched', 'fault', 'inactive'];

let state = null; // the newest event
let stateAt = -Infinity;
let stopAt = null; // when Stop was pressed and is not confirmed
let recalled = -1;
let resuming = false;
const pageStart = now();
const cameras = new Map();
const actions = new Map();
const lowest = new Series(), mean = new Series();
let decision = null;

const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const seconds = (age) => `${Math.max(Math.floor(age), 0)} s`;
const percent = (share) => `${Math.round(100 * share)} %`;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- stop and resume ----

const line = new StopLine((on) => {
  $('stop-line').dataset.state = on;
  setText($('stop-line'), on === 'on' ? 'open' : 'closed');
});

function stop() {
  line.stop();
  stopAt ??= now();
  post('/stop'); // the second way; stopping twice is stopping
  showStatus();
}

async function resume() {
  if (resuming || $('resume').disabled) return;
  resuming = true;
  stopAt = null;
  showAnswer(await post('/resume'));
  resuming = false;
}

// ---- instruction ----

function showAnswer(answer) {
  $('answer').dataset.ok = answer.ok;
  setText($('answer'), answer.message);
}

async function instruct(text) {
  showAnswer({ ok: true, message: 'sending …' });
  const answer = await post('/instruction', { text });
  showAnswer(answer);
  return answer.ok;
}

$('instruct').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = $('instruction').value.trim();
  if (!text) return showAnswer({ ok: false, message: 'Write what the robot shall do, or press Hold.' });
  if (await instruct(text)) $('instruction').value = '';
  recalled = -1;
});

function recall(step) {
  const texts = state?.history.map((entry) => entry.text) ?? [];
  recalled = Math.min(Math.max(recalled + step, -1), texts.length - 1);
  $('instruction').value = recalled < 0 ? '' : texts[recalled];
}

function showHistory() {
  const key = JSON.stringify(state.history);
  if ($('history').dataset.key === key || !state.history.length) return;
  $('history').dataset.key = key;
  $('history').replaceChildren(...state.history.map(({ text, at, outcome }) => {
    const item = document.createElement('li'), button = document.createElement('button');
    button.type = 'button';
    button.title = 'Write this again';
    for (const [tag, name, content] of [['time', '', at], ['span', 'text', text], ['span', 'done', outcome]]) {
      const part = document.createElement(tag);
      part.className = name;
      part.textContent = content;
      if (content) button.append(part);
    }
    button.addEventListener('click', () => { $('instruction').value = text; $('instruction').focus(); });
    item.append(button);
    return item;
  }));
}

// ---- status ----

function showStatus() {
  const old = now() - stateAt > OLD_MS;
  document.body.classList.toggle('is-old', old);
  if (state && stopAt !== null && !old && STANDS.includes(state.status.state) && stateAt > stopAt) stopAt = null;
  showAlarm(old);
  if (old) return showState(3, 'No connection', `The console has been silent for ${seconds((now() - Math.max(stateAt, pageStart)) / 1000)}. What is shown here is old.`);
  const { node, status } = state;
  const age = node.age_s;
  setText($('node-name'), node.name);
  if (age === null) showState(3, 'No node', `${node.name} has not been heard. Start it with vla run; vla doctor says what is wrong.`);
  else if (age > node.silent_after_s) showState(2, 'Silent', `${node.name} has said nothing for ${seconds(age)}. It said last: ${status.sentence}`);
  else showState(status.level, stopAt === null ? STATES[status.state] ?? status.state : 'Stopping', status.sentence);
  setText($('also'), status.also?.length ? `Also: ${status.also.join(', ').toLowerCase().replaceAll('_', ' ')}` : '');
  $('also').hidden = !status.also?.length;
  const latched = status.state === 'latched' && age !== null && age <= node.silent_after_s;
  $('resume').disabled = !latched || resuming;
  $('resume-hint').hidden = !latched;
  if (latched) setText($('resume-hint'), resumeHint());
}

function showState(level, word, sentence) {
  $('status').dataset.level = level;
  setText($('state'), word);
  setText($('sentence'), sentence);
  if (level === 3) { $('resume').disabled = true; $('resume-hint').hidden = true; }
}

function resumeHint() {
  if (state.e_stop.elsewhere) return 'The emergency stop is pressed elsewhere: release it there first.';
  const next = state.instruction && !state.status.task_done ? `goes on with “${state.instruction}”` : 'waits for an instruction';
  return `Resume ${state.e_stop.here ? 'releases the stop and ' : ''}${next}.`;
}

function showAlarm(old) {
  const late = stopAt !== null && now() - stopAt > CONFIRM_MS;
  $('alarm').hidden = !late;
  const why = old ? 'the console does not answer' : 'the node has not confirmed it';
  if (late) setText($('alarm'), `Stop was sent and ${why}. Use the robot's own emergency stop.`);
}

function showFigures() {
  const { figures } = state, fresh = figures.age_s !== null && figures.age_s < 3;
  const shown = (value, unit, digits) => (fresh && value !== null && value !== undefined && isFinite(value) ? `${(+value).toFixed(digits)}${unit}` : '–');
  setText($('control-rate'), shown(figures.control_rate_hz, ' Hz', 1));
  setText($('missed'), shown(figures.missed_periods, '', 0));
  setText($('inference'), shown(figures.inference_ms, ' ms', 0));
  setText($('bundle'), figures.bundle ?? '');
}

// ---- cameras ----

function camera(name) {
  if (cameras.has(name)) return cameras.get(name);
  $('no-cameras')?.remove();
  const figure = $('camera').content.firstElementChild.cloneNode(true), part = (selector) => figure.querySelector(selector);
  const made = { figure, image: part('img'), veil: part('.veil'), rate: part('.rate'), takenAt: null, times: [] };
  figure.id = `camera-${name}`;
  setText(part('.name'), name);
  made.image.alt = `Picture of the camera ${name}`;
  made.image.addEventListener('load', () => { part('.frame').style.aspectRatio = made.image.naturalWidth / made.image.naturalHeight; });
  $('cameras').append(figure);
  cameras.set(name, made);
  return made;
}

/** The picture is at least as young as the answer says plus the time since it was asked for: that bound is what counts. */
function showPicture(name, picture, asked) {
  const shown = camera(name);
  shown.takenAt = asked - 1000 * picture.age_s;
  shown.image.src = `data:image/jpeg;base64,${picture.jpeg}`;
  shown.times.push(now());
  showCamera(name);
}

function showCamera(name) {
  const shown = camera(name), error = state?.cameras[name]?.error;
  shown.times = shown.times.filter((time) => now() - time < 2000);
  const age = shown.takenAt === null ? null : (now() - shown.takenAt) / 1000;
  const live = age !== null && age < PICTURE_OLD_S;
  const waited = age ?? (now() - pageStart) / 1000;
  shown.figure.dataset.state = live ? 'live' : waited < PICTURE_OLD_S ? 'waiting' : 'silent';
  setText(shown.rate, live ? `${(shown.times.length / 2).toFixed(0)} pictures/s` : `no picture for ${seconds(waited)}`);
  if (!live) setText(shown.veil, error || `No picture for ${seconds(waited)}${age === null ? '' : ' – this is the last one'}`);
}

// ---- charts ----

function actionRow(index, { name, unit }) {
  const key = `${index} ${name} ${unit}`;
  if (actions.has(key)) return actions.get(key);
  if (index === 0) { actions.clear(); $('actions').replaceChildren(); }
  const row = document.createElement('div');
  row.className = 'row';
  row.innerHTML = '<span class="dim"></span><canvas role="img"></canvas><span class="value"></span>';
  row.querySelector('.dim').textContent = name;
  $('actions').append(row);
  const made = { name, unit, series: new Series(), canvas: row.querySelector('canvas'), value: row.querySelector('.value') };
  actions.set(key, made);
  return made;
}

function keepFigures() {
  const time_s = now() / 1000, { action } = state;
  const fresh = action.age_s !== null && action.age_s < ACTION_OLD_S;
  action.dims?.forEach((dim, i) => {
    const row = actionRow(i, dim), value = fresh ? action.values[i] : null;
    row.series.add(time_s, value);
    const text = value === null ? '–' : `${value.toFixed(3)}${dim.unit ? ` ${dim.unit}` : ''}`;
    setText(row.value, text);
    row.canvas.setAttribute('aria-label', `${dim.name}: ${text}`);
  });
  if (state.decision.number && state.decision.number !== decision?.number && state.decision.age_s < 2) {
    decision = state.decision;
    lowest.add(time_s, decision.lowest ?? null);
    mean.add(time_s, decision.mean ?? null);
  } else if (state.decision.age_s > 2 && decision) {
    decision = null;
    lowest.add(time_s, null);
    mean.add(time_s, null);
  }
  showConfidence();
}

function showConfidence() {
  const known = decision?.lowest !== undefined && decision !== null;
  setText($('lowest'), known ? percent(decision.lowest) : '–');
  setText($('mean'), known ? percent(decision.mean) : '–');
  const dims = state.action.dims ?? [];
  const worst = known && dims.length === decision.by_dim.length ? dims[decision.by_dim.indexOf(Math.min(...decision.by_dim))].name : '';
  const failed = state.decision.error && state.decision.age_s < 2 ? `The newest answer failed: ${state.decision.error}` : '';
  setText($('unsure'), failed || (worst ? `Least sure of ${worst}. ` : '') + (failed ? '' : 'How probable the chosen action and its two neighbours were.'));
  $('confidence').setAttribute('aria-label', known ? `Confidence: least sure ${percent(decision.lowest)}, mean ${percent(decision.mean)}` : 'Confidence: none now');
}

function drawCharts() {
  const time_s = now() / 1000, accent = colour('--accent'), rule = colour('--line'), muted = colour('--muted');
  for (const { series, canvas, unit } of actions.values()) {
    draw(canvas, time_s, range(series.values, unit ? 1e-3 : 1), [{ series, colour: accent, width: 1.6 }], [0], rule);
  }
  const lines = [{ series: mean, colour: muted, width: 1.4 }, { series: lowest, colour: accent, width: 2 }];
  draw($('confidence'), time_s, [0, 1], lines, [0, 0.25, 0.5, 0.75, 1], rule);
}

// ---- everything together ----

function show(event) {
  state = event;
  stateAt = now();
  Object.keys(state.cameras).forEach(showCamera);
  setText($('plan'), state.plan || '–');
  setText($('current'), state.instruction || 'no instruction');
  setText($('current-label'), state.status.task_done ? 'Done' : 'Now');
  showStatus();
  showFigures();
  showHistory();
  keepFigures();
  requestAnimationFrame(drawCharts);
}

$('stop').addEventListener('pointerdown', stop); // not only at the release of the button
$('stop').addEventListener('click', stop);
$('resume').addEventListener('click', resume);
$('hold').addEventListener('click', () => instruct(''));
document.addEventListener('keydown', (event) => {
  const writing = event.target instanceof HTMLInputElement;
  if (event.key === 'Escape') { event.preventDefault(); stop(); }
  else if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (writing && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) { event.preventDefault(); recall(event.key === 'ArrowUp' ? 1 : -1); }
  else if (!writing && event.key === '/') { event.preventDefault(); $('instruction').focus(); }
  else if (!writing && event.shiftKey && event.key.toLowerCase() === 'r') resume();
}, { capture: true });
setInterval(() => { cameras.forEach((_, name) => showCamera(name)); showStatus(); }, 250);
new Events(show);
followPictures(showPicture);
