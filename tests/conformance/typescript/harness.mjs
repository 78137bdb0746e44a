// What every scenario needs: a client, a way to tell what it saw, and a way to be told to go on.

import { once } from "node:events";
import { createInterface } from "node:readline";
import { AppendInput, AppendRecord, S2 } from "@s2-dev/streamstore";

/** Print what was seen, as one line of JSON. */
export function tell(event, facts = {}) {
  console.log(JSON.stringify({ event, ...facts }));
}

/** Wait for the next line on standard input. */
export async function told() {
  const lines = createInterface({ input: process.stdin });
  await once(lines, "line");
  lines.close();
}

/** A client that reports the first failure, unless it is given more attempts. */
export function connect(url, { attempts = 1, policy = "all", ...options } = {}) {
  return new S2({
    accessToken: "ignored",
    endpoints: { account: url, basin: url },
    retry: {
      maxAttempts: attempts,
      minBaseDelayMillis: 50,
      maxBaseDelayMillis: 100,
      appendRetryPolicy: policy,
    },
    ...options,
  });
}

/** The stream that a test has made for its scenario. */
export function open({ url, basin, stream }, options = {}, streamOptions = {}) {
  return connect(url, options).basin(basin).stream(stream, streamOptions);
}

export const text = (body, options = {}) => AppendRecord.string({ body, ...options });
export const bytes = (body, options = {}) =>
  AppendRecord.bytes({ body: Uint8Array.from(body), ...options });
export const input = (records, options = {}) => AppendInput.create(records, options);
export const pause = (millis = 1) => new Promise((resolve) => setTimeout(resolve, millis));

/** Records in a form that JSON has. */
export function plain(records) {
  return records.map((record) => ({
    seqNum: record.seqNum,
    timestamp: record.timestamp.getTime(),
    body: hexOr(record.body),
    headers: record.headers.map((pair) => pair.map(hexOr)),
  }));
}

const hexOr = (value) => (typeof value === "string" ? value : Buffer.from(value).toString("hex"));

export const position = (at) => [at.seqNum, at.timestamp.getTime()];

/** What went wrong with it; nothing going wrong is an error. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return {
      type: error.constructor.name,
      status: error.status,
      code: error.code,
      message: error.message,
      expected: error.expectedSeqNum ?? error.expectedFencingToken,
      tail: error.tail && position(error.tail),
    };
  }
  throw new Error("this was expected to be refused");
}

/** All records of a session that ends by itself. */
export async function drain(session) {
  const records = [];
  for await (const record of session) records.push(record);
  return records;
}

/** Records of a session until there are this many; the session goes on. */
export async function take(reader, count) {
  const records = [];
  while (records.length < count) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`the session ended after ${records.length} records`);
    records.push(value);
  }
  return records;
}
