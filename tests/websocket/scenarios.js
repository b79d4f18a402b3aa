// What a browser-like WebSocket does in the tests; Node's `ws` and Chromium run the same file.
// Each scenario gives a plain object that the test compares.
"use strict";

function packet(sequence, size) {
  const bytes = new Uint8Array(12 + size);
  bytes[0] = 3;
  new DataView(bytes.buffer).setUint32(4, sequence, true);
  for (let at = 0; at < size; at++) bytes[12 + at] = (sequence * 31 + at) & 255;
  return bytes;
}

function same(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

function opened(make) {
  return new Promise((resolve, reject) => {
    const socket = make();
    socket.binaryType = "arraybuffer";
    const inbox = [];
    const waiting = [];
    socket.addEventListener("message", (event) => {
      const whole = typeof event.data === "string" ? event.data : new Uint8Array(event.data);
      if (waiting.length) waiting.shift()(whole);
      else inbox.push(whole);
    });
    const closed = new Promise((done) => {
      socket.addEventListener("close", (event) =>
        done({ code: event.code, reason: event.reason, clean: event.wasClean }),
      );
    });
    socket.addEventListener("error", () => reject(new Error("the WebSocket failed")));
    socket.addEventListener("open", () => {
      const next = () =>
        inbox.length ? Promise.resolve(inbox.shift()) : new Promise((got) => waiting.push(got));
      resolve({ socket, next, closed });
    });
  });
}

const scenarios = {
  // Everything comes back, whole, in order; then the client says goodbye with a code of its own.
  async echo(make, { sizes }) {
    const { socket, next, closed } = await opened(make);
    const sent = sizes.map((size, number) => packet(number, size));
    for (const message of sent) socket.send(message);
    let equal = 0;
    for (const message of sent) equal += same(await next(), message) ? 1 : 0;
    socket.close(3001, "enough");
    return { equal, extensions: socket.extensions, closed: await closed };
  },
  // Bytes or text that the server must refuse.
  async refused(make, { text, bytes }) {
    const { socket, closed } = await opened(make);
    socket.send(text === undefined ? packet(1, bytes - 12) : text);
    return { closed: await closed };
  },
  // The server speaks last.
  async told(make) {
    const { socket, closed } = await opened(make);
    socket.send(packet(1, 1));
    return { closed: await closed };
  },
  // Only Node's client shows these: pieces of one message with a ping between them.
  async pieces(make, { size, each }) {
    const { socket, next, closed } = await opened(make);
    const whole = packet(7, size);
    const pongs = [];
    socket.on("pong", (data) => pongs.push(data.toString()));
    for (let at = 0; at < whole.length; at += each) {
      socket.send(whole.slice(at, at + each), { fin: at + each >= whole.length });
      socket.ping(String(at));
    }
    const equal = same(await next(), whole);
    socket.close(1000);
    return { equal, pongs, closed: await closed };
  },
};

if (typeof module !== "undefined") module.exports = { scenarios };
