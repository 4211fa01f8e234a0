// SPDX-License-Identifier: Apache-2.0
// The page's connections: events, pictures, requests, and the stop button's own. Knows nothing of what is shown.

const REQUEST_MS = 4000;
const RETRY_MS = 1000;
const BEAT_MS = 1000;
const PICTURE_MS = 50; // between two requests for pictures, at least

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Sends a request and returns {ok, message}; never hangs for longer than four seconds, never throws. */
export async function post(path, body) {
  try {
    const answer = await fetch(path, {
      method: 'POST', priority: 'high', signal: AbortSignal.timeout(REQUEST_MS),
      headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body ?? {}),
    });
    return await answer.json();
  } catch (error) {
    return { ok: false, message: error.name === 'TimeoutError' ? 'the console did not answer in time' : 'the console cannot be reached' };
  }
}

/** The state, ten times a second. A hidden page lets its connection go: a browser has six for all its pages together. */
export class Events {
  constructor(show) {
    this.show = show;
    document.addEventListener('visibilitychange', () => (document.hidden ? this.close() : this.open()));
    if (!document.hidden) this.open();
  }

  open() {
    this.close();
    const source = (this.source = new EventSource('/events'));
    source.onmessage = (event) => this.show(JSON.parse(event.data));
    source.onerror = async () => {
      if (source !== this.source || source.readyState !== EventSource.CLOSED) return;
      await pause(RETRY_MS);
      const page = await fetch('/', { cache: 'no-store', signal: AbortSignal.timeout(REQUEST_MS) }).catch(() => null);
      if (page?.status === 401) location.reload(); // the console was started anew and asks for the token again
      else if (source === this.source) this.open();
    };
  }

  close() {
    this.source?.close();
    this.source = null;
  }
}

/** One request at a time, so that no picture waits in a buffer: show(name, picture, asked_ms). */
export async function followPictures(show) {
  const numbers = new Map();
  for (;;) {
    const asked = performance.now();
    if (!document.hidden) {
      try {
        const answer = await fetch('/pictures?' + new URLSearchParams([...numbers]), { signal: AbortSignal.timeout(REQUEST_MS), priority: 'low' });
        if (!answer.ok) throw new Error(answer.statusText);
        for (const [name, picture] of Object.entries(await answer.json())) {
          numbers.set(name, picture.number);
          show(name, picture, asked);
        }
      } catch {
        await pause(RETRY_MS);
      }
    }
    await pause(Math.max(PICTURE_MS - (performance.now() - asked), document.hidden ? RETRY_MS : 0));
  }
}

/** The stop button's own connection, open before it is needed; stop() is one frame on it. */
export class StopLine {
  constructor(show) {
    this.show = show;
    this.open();
    setInterval(() => this.beat(), BEAT_MS);
  }

  open() {
    this.show('off');
    const socket = (this.socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/stop-channel`));
    this.heard = performance.now();
    socket.onopen = () => socket.send('here?');
    socket.onmessage = () => {
      this.heard = performance.now();
      if (socket === this.socket) this.show('on');
    };
  }

  beat() {
    const lost = this.socket.readyState > WebSocket.OPEN || performance.now() - this.heard > 3 * BEAT_MS;
    if (lost) {
      this.socket.close();
      this.open();
    } else if (this.socket.readyState === WebSocket.OPEN) this.socket.send('here?');
  }

  stop() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send('stop');
  }
}
