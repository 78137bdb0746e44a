// What the client makes of a server that goes away under it and comes back at the same place.

import { SeqNumMismatchError } from "@s2-dev/streamstore";
import { startProxy } from "./advising_proxy.mjs";
import { input, open, pause, tell, text, told } from "./harness.mjs";

const PATIENT = { attempts: 200 };
const FROM_START = { start: { from: { seqNum: 0 } } };

/**
 * Append in one session and follow in others until told to stop. Tells when all of it has begun,
 * and in the end everything that was acked and everything that was read.
 */
export async function interrupted({ enough, ...args }) {
  const following = ["s2s", "fetch"].map((transport) => follow(args, transport));
  const session = await open(args, PATIENT).appendSession({ maxInflightBatches: 20 });
  const acked = [];
  let stopping = false;
  const stop = told().then(() => (stopping = true));
  const acks = [];
  for (let i = 0; !stopping; i++) {
    const ticket = await session.submit(input([text(`${i}`)]));
    acks.push(ticket.ack().then((ack) => acked.push([ack.start.seqNum, `${i}`])));
    await pause();
    if (i === enough) await Promise.all([...acks, ...following.map((each) => each.started)]);
    if (i === enough) tell("under way");
  }
  await stop;
  await session.close();
  await Promise.all(acks);
  const tail = (await open(args, PATIENT).checkTail()).tail.seqNum;
  const read = await Promise.all(following.map((each) => each.until(tail)));
  tell("done", { sent: acks.length, acked, read });
}

function follow(args, transport, options = PATIENT) {
  const records = [];
  let begun;
  const started = new Promise((resolve) => (begun = resolve));
  const ended = (async () => {
    const stream = open(args, options, { forceTransport: transport });
    for await (const record of await stream.readSession(FROM_START)) {
      records.push([record.seqNum, record.body]);
      begun();
    }
    throw new Error(`the ${transport} follower ended after ${records.length} records`);
  })();
  const until = async (tail) => {
    while (records.length < tail) await Promise.race([ended, pause(5)]);
    return records;
  };
  return { started, until };
}

/** Append each number exactly once: each input names its place, and a mismatch tells how far it got. */
export async function exactlyOnce({ count, enough, ...args }) {
  const stream = open(args, PATIENT);
  let next = 0;
  let mismatches = 0;
  while (next < count) {
    const session = await stream.appendSession({ maxInflightBatches: 20 });
    const tickets = [];
    try {
      for (let i = next; i < count; i++) {
        tickets.push(await session.submit(input([text(`${i}`)], { matchSeqNum: i })));
        if (i === enough) tell("under way");
        await pause();
      }
      for (const ticket of tickets) await ticket.ack();
      await session.close();
      next = count;
    } catch (error) {
      if (!(error instanceof SeqNumMismatchError)) throw error;
      next = error.expectedSeqNum;
      mismatches++;
    }
  }
  tell("done", { mismatches });
}

/** Requests of one try each, retried by the client while there is nobody. */
export async function unaryThroughout(args) {
  const stream = open(args, PATIENT);
  await stream.append(input([text("before")]));
  tell("under way");
  await told();
  const ack = await stream.append(input([text("after")]));
  const read = await stream.read(FROM_START);
  tell("done", { end: ack.end.seqNum, bodies: read.records.map((each) => each.body) });
}

/** Sessions that are advised to reconnect do so, with nothing sent twice and not one failure. */
export async function advised({ count, ...args }) {
  const proxy = await startProxy(args.url);
  const place = { ...args, url: proxy.url };
  const follower = follow(place, "s2s", { attempts: 1 });
  const session = await open(place, { attempts: 1, policy: "noSideEffects" }).appendSession();
  const acks = [];
  for (let i = 0; i < count; i++) {
    const ticket = await session.submit(input([text(`${i}`)]));
    acks.push(ticket.ack().then((ack) => [ack.start.seqNum, `${i}`]));
    if (i === 50) await Promise.all([...acks, follower.started]);
    if (i === 50) proxy.advising = true;
    await pause();
  }
  const acked = await Promise.all(acks);
  await session.close();
  const read = await follower.until(count);
  tell("done", { acked, read, connections: proxy.connections, goaways: proxy.goaways });
}
