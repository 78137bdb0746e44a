// Appends and reads of one request each.

import { AppendRecord } from "@s2-dev/streamstore";
import {
  bytes, connect, drain, input, open, pause, plain, position, refusal, tell, text,
} from "./harness.mjs";

export async function unary(args) {
  const stream = open(args);
  const strings = [
    text("plain", { timestamp: 5 }),
    text("grüße 🌍", { headers: [["k", "v"], ["k", ""]], timestamp: 6 }),
    text(""),
  ];
  const ack = await stream.append(input(strings));
  tell("acked", { start: position(ack.start), end: ack.end.seqNum, tail: ack.tail.seqNum });
  const binary = bytes([0, 255, 128], { headers: [[Uint8Array.of(255), Uint8Array.of(0)]] });
  await stream.append(input([binary, text("mixed")]));
  const start = { from: { seqNum: 0 } };
  tell("strings", { records: plain((await stream.read({ start, stop: { limits: { count: 3 } } })).records) });
  tell("bytes", { records: plain((await stream.read({ start }, { as: "bytes" })).records) });
  const last = await stream.read({ start: { from: { tailOffset: 1 } } });
  const from = await stream.read({ start: { from: { timestamp: 6 } }, stop: { limits: { count: 1 } } });
  tell("places", { last: last.records[0].body, from: from.records[0].seqNum });
  tell("tail", { seqNum: (await stream.checkTail()).tail.seqNum });
  const large = "x".repeat(1024 * 1024 - 8);
  tell("large", { end: (await stream.append(input([text(large)]))).end.seqNum });
  const read = await stream.read({ start: { from: { tailOffset: 1 } } }, { as: "bytes" });
  tell("large read", { size: read.records[0].body.length });
}

export async function conditions(args) {
  const stream = open(args);
  await stream.append(input([text("a"), text("b")], { matchSeqNum: 0 }));
  tell("mismatch", await refusal(stream.append(input([text("x")], { matchSeqNum: 0 }))));
  const binary = input([bytes([255])], { matchSeqNum: 7 });
  tell("binary mismatch", await refusal(stream.append(binary)));
  await stream.append(input([AppendRecord.fence("owner")]));
  const thief = input([text("x")], { fencingToken: "thief" });
  tell("fenced", await refusal(stream.append(thief)));
  await stream.append(input([text("c")], { fencingToken: "owner" }));
  await stream.append(input([AppendRecord.trim(2)], { fencingToken: "owner" }));
  const everything = { start: { from: { seqNum: 2 } } };
  tell("commands", { records: plain((await stream.read(everything, { as: "bytes" })).records) });
  const data = await stream.read({ ...everything, ignoreCommandRecords: true });
  tell("data", { records: plain(data.records) });
}

export async function unwritten(args) {
  const stream = open(args);
  const { tail } = await stream.append(input([text("a"), text("b")]));
  tell("tail", { position: position(tail) });
  const at = (seqNum, more = {}) => ({ start: { from: { seqNum }, ...more }, stop: { waitSecs: 0 } });
  for (const seqNum of [2, 3]) {
    tell(`unary at ${seqNum}`, await refusal(stream.read(at(seqNum))));
  }
  tell("clamped", await refusal(stream.read(at(9, { clamp: true }))));
  for (const transport of ["s2s", "fetch"]) {
    const other = open(args, {}, { forceTransport: transport });
    const records = await drain(await other.readSession(at(2)));
    const session = async () => drain(await other.readSession(at(3)));
    tell(`${transport} past the tail`, { records: records.length, ...(await refusal(session())) });
  }
  const waiting = stream.read({ start: { from: { seqNum: 2 } }, stop: { waitSecs: 4 } });
  await pause(50);
  const live = await stream.append(input([text("c")]));
  const { records, tail: seen } = await waiting;
  tell("waited", { bodies: records.map((each) => each.body), same: seen.seqNum === live.tail.seqNum });
  const missing = open({ ...args, stream: "missing" });
  tell("missing", await refusal(missing.checkTail()));
  const session = async () => drain(await missing.readSession(at(0)));
  tell("missing session", await refusal(session()));
}

/** Records of a stream with a cipher, with the right key, with another and with none. */
export async function encrypted({ url, basin }) {
  const client = open({ url, basin, stream: "s" });
  const key = Uint8Array.from({ length: 32 }, (_, i) => i);
  const { streams } = await connect(url).basin(basin).streams.list();
  tell("listed", { cipher: streams[0].cipher });
  const right = client.withEncryptionKey(key);
  const wrong = client.withEncryptionKey(key.map((each) => each ^ 1));
  await right.append(input([text("secret", { headers: [["k", "v"]] })]));
  const session = await right.appendSession();
  await (await session.submit(input([bytes([0, 255]), text("more")]))).ack();
  await session.close();
  const all = { start: { from: { seqNum: 0 } }, stop: { waitSecs: 0 } };
  tell("read", { records: plain((await right.read(all, { as: "bytes" })).records) });
  const followed = await drain(await right.readSession(all, { as: "bytes" }));
  tell("session", { records: plain(followed) });
  tell("wrong", await refusal(wrong.read(all)));
  tell("wrong session", await refusal((async () => drain(await wrong.readSession(all)))()));
  tell("none", await refusal(client.read(all)));
}
