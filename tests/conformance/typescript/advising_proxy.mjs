// A proxy that advises the sessions of its first connection to reconnect, as a server does that is
// about to leave; and that counts the GOAWAYs of clients, which is how this client takes it.

import { once } from "node:events";
import net from "node:net";

const PREFACE_BYTES = 24;
const DATA = 0;
const GOAWAY = 7;
const ADVICE = 0x10;
const TERMINAL = 0x80;

/** Start it; `advise()` sets the flag on every session frame from then on. */
export async function startProxy(url) {
  const proxy = { connections: 0, goaways: 0, advised: 0, advising: false };
  const server = net.createServer((client) => {
    const first = proxy.connections++ === 0;
    const upstream = net.connect(new URL(url).port, "127.0.0.1");
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
    const flags = new Map();
    cut(client, upstream, PREFACE_BYTES, (type) => type === GOAWAY && proxy.goaways++);
    cut(upstream, client, 0, (type, id, payload) => {
      if (type !== DATA || !first) return;
      if (!flags.has(id)) flags.set(id, new SessionFrames());
      for (const at of flags.get(id).flagsIn(payload)) {
        if (!proxy.advising || payload[at] & TERMINAL) continue;
        payload[at] |= ADVICE;
        proxy.advised++;
      }
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(proxy, { url: `http://127.0.0.1:${server.address().port}` });
}

/** Pass on what is behind the preface frame by frame; `seen` may change the payload. */
function cut(from, to, preface, seen) {
  let held = Buffer.alloc(0);
  from.on("data", (chunk) => {
    held = Buffer.concat([held, chunk]);
    if (preface) {
      if (held.length < preface) return;
      to.write(held.subarray(0, preface));
      held = held.subarray(preface);
      preface = 0;
    }
    while (held.length >= 9 && held.length >= 9 + held.readUIntBE(0, 3)) {
      const end = 9 + held.readUIntBE(0, 3);
      seen(held[3], held.readUInt32BE(5) & 0x7fffffff, held.subarray(9, end));
      to.write(held.subarray(0, end));
      held = held.subarray(end);
    }
  });
}

/** Finds the flags in a session's bytes: each frame is a length of three bytes, a flag, a body. */
class SessionFrames {
  #length = 0;
  #head = 0;
  #left = 0;

  *flagsIn(payload) {
    for (let at = 0; at < payload.length; ) {
      if (this.#left > 0) {
        const skipped = Math.min(this.#left, payload.length - at);
        this.#left -= skipped;
        at += skipped;
      } else if (this.#head < 3) {
        this.#length = this.#length * 256 + payload[at++];
        this.#head++;
      } else {
        yield at++;
        this.#left = this.#length - 1;
        this.#length = this.#head = 0;
      }
    }
  }
}
