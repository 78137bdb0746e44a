// Append sessions, producers and followers.

import { BatchTransform, Producer } from "@s2-dev/streamstore";
import {
  bytes, drain, input, open, pause, plain, position, refusal, take, tell, text,
} from "./harness.mjs";

const FROM_START = { start: { from: { seqNum: 0 } } };

/** Many inputs at once, told of in order; a second session reads what came of it. */
export async function appending({ compression, transport, count, ...args }) {
  const stream = open(args, { compression }, { forceTransport: transport });
  const session = await stream.appendSession();
  const tickets = [];
  for (let i = 0; i < count; i++) {
    const records = Array.from({ length: 1 + (i % 3) }, (_, j) => text(`${i}/${j} `.repeat(300)));
    tickets.push(await session.submit(input(records)));
  }
  const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
  await session.close();
  tell("acked", {
    ranges: acks.map((ack) => [ack.start.seqNum, ack.end.seqNum]),
    last: session.lastAckedPosition().end.seqNum,
  });
  const read = await drain(await stream.readSession({ ...FROM_START, stop: { waitSecs: 0 } }));
  tell("read", { bodies: read.map((each) => each.body.split(" ", 1)[0]) });
}

/** Bodies that no window holds, one way and then the other. */
export async function large(args) {
  const stream = open(args);
  const session = await stream.appendSession();
  const bodies = Array.from({ length: 14 }, (_, i) => new Uint8Array(1_000_000).fill(i));
  const tickets = [];
  for (const body of bodies) tickets.push(await session.submit(input([bytes(body)])));
  for (const ticket of tickets) await ticket.ack();
  await session.close();
  const reading = await stream.readSession({ ...FROM_START, stop: { waitSecs: 0 } }, { as: "bytes" });
  const read = await drain(reading);
  const same = read.every(({ body }, i) => Buffer.compare(body, bodies[i]) === 0);
  tell("read", { count: read.length, same });
}

/** A condition that fails in the middle: what is before it counts, what is behind it does not. */
export async function refused(args) {
  const session = await open(args).appendSession();
  const first = await session.submit(input([text("a")], { matchSeqNum: 0 }));
  const second = await session.submit(input([text("x")], { matchSeqNum: 0 }));
  const third = await session.submit(input([text("y")]));
  tell("first", { end: (await first.ack()).end.seqNum });
  tell("second", await refusal(second.ack()));
  tell("third", await refusal(third.ack()));
  tell("close", await refusal(session.close()));
  tell("tail", { seqNum: (await open(args).checkTail()).tail.seqNum });
}

export async function producing(args) {
  const stream = open(args);
  const batching = new BatchTransform({ maxBatchRecords: 7, lingerDurationMillis: 2, matchSeqNum: 0 });
  const producer = new Producer(batching, await stream.appendSession());
  const tickets = [];
  for (let i = 0; i < 100; i++) tickets.push(await producer.submit(text(`${i}`)));
  await producer.flush();
  const acks = await Promise.all(tickets.map((ticket) => ticket.ack()));
  await producer.close();
  tell("acked", { seqNums: acks.map((ack) => ack.seqNum()) });
  const read = await drain(await stream.readSession({ ...FROM_START, stop: { waitSecs: 0 } }));
  tell("read", { bodies: read.map((each) => each.body) });
}

/** Catch up, learn of it, follow, and stop with the connection still good for others. */
export async function following({ transport, ...args }) {
  const stream = open(args, {}, { forceTransport: transport });
  await stream.append(input([text("a"), text("b")]));
  const session = await stream.readSession(FROM_START);
  const reader = session.getReader();
  const caughtUp = session.caughtUp();
  const old = await take(reader, 2);
  const tail = position(await caughtUp);
  tell("caught up", { bodies: old.map((each) => each.body), tail, is: session.isCaughtUp() });
  const appended = stream.append(input([text("c"), text("d")]));
  const live = await take(reader, 2);
  const ack = await appended;
  tell("live", { records: plain(live), start: position(ack.start) });
  await pause(50);
  tell("after", {
    next: session.nextReadPosition()?.seqNum ?? session.nextReadPosition()?.seq_num,
    tail: (await session.caughtUp()).seqNum,
  });
  await reader.cancel();
  tell("cancelled", { tail: (await stream.checkTail()).tail.seqNum });
  const bounded = { ...FROM_START, stop: { limits: { count: 3 } } };
  tell("bounded", { count: (await drain(await stream.readSession(bounded))).length });
}

/** The client says GOAWAY when its handle is closed, and goes on with the sessions it has. */
export async function goodbye(args) {
  const leaving = open(args);
  const staying = open(args, { http2: { initialStreamWindowSize: 1_000_000 } }); // not pooled with it
  const session = await leaving.appendSession();
  await (await session.submit(input([text("before")]))).ack();
  const reader = (await leaving.readSession(FROM_START)).getReader();
  tell("before", { bodies: (await take(reader, 1)).map((each) => each.body) });
  const closed = leaving.close(); // only resolves when the sessions have ended
  await pause(50);
  await (await session.submit(input([text("behind")]))).ack();
  await staying.append(input([text("other")]));
  tell("behind", { bodies: (await take(reader, 2)).map((each) => each.body) });
  await session.close();
  await reader.cancel();
  await closed;
  const read = await drain(await staying.readSession({ ...FROM_START, stop: { waitSecs: 0 } }));
  tell("read", { bodies: read.map((each) => each.body) });
}
