// Basins and streams.

import { connect, input, refusal, tell, text } from "./harness.mjs";

export async function basins({ url, basin }) {
  const { basins } = connect(url);
  const name = `${basin}-made`;
  const config = {
    createStreamOnAppend: true,
    defaultStreamConfig: { retentionPolicy: { ageSecs: 3600 }, timestamping: { mode: "arrival" } },
  };
  const created = await basins.create({ basin: name, config });
  tell("created", { name: created.name, dated: created.createdAt instanceof Date });
  tell("again", await refusal(basins.create({ basin: name })));
  tell("config", await basins.getConfig({ basin: name }));
  const { result } = await basins.ensure({ basin: name, config });
  const { result: other } = await basins.ensure({ basin: name, config: {} });
  tell("ensured", { results: [result, other] });
  const reconfigured = await basins.reconfigure({ basin: name, createStreamOnRead: true });
  tell("reconfigured", reconfigured);
  const { basins: page, hasMore } = await basins.list({ prefix: name, limit: 1 });
  tell("listed", { names: page.map((each) => each.name), hasMore });
  await basins.delete({ basin: name });
  tell("missing", await refusal(basins.getConfig({ basin: `${basin}-none` })));
}

export async function streams({ url, basin }) {
  const { streams } = connect(url).basin(basin);
  const names = ["a/b", "c d", "é", "x1", "x2", "x3"];
  for (const stream of names) await streams.create({ stream });
  tell("again", await refusal(streams.create({ stream: "x1" })));
  const all = [];
  for await (const each of streams.listAll({ limit: 2 })) all.push(each.name);
  tell("listed", { names: all });
  const { streams: page, hasMore } = await streams.list({ prefix: "x", startAfter: "x1", limit: 1 });
  tell("page", { names: page.map((each) => each.name), hasMore });
  const config = { retentionPolicy: { infinite: {} }, storageClass: "standard" };
  const results = [];
  for (const wanted of [{ stream: "new", config }, { stream: "new", config }, { stream: "new" }]) {
    results.push((await streams.ensure(wanted)).result);
  }
  tell("ensured", { results });
  await streams.reconfigure({ stream: "x1", deleteOnEmpty: { minAgeSecs: 60 } });
  await streams.reconfigure({ stream: "x1", timestamping: { mode: "client-require" } });
  tell("config", await streams.getConfig({ stream: "x1" }));
  await streams.delete({ stream: "a/b" });
  tell("missing", await refusal(streams.getConfig({ stream: "never" })));
}

/** A stream that is not there is made by an append or by a session, as the config with it says. */
export async function automatic({ url, basin }) {
  const client = connect(url);
  const { streams } = client.basin(basin);
  const missing = client.basin(basin).stream("unary");
  tell("missing", await refusal(missing.append(input([text("a")]))));
  await client.basins.reconfigure({ basin, createStreamOnAppend: true, createStreamOnRead: true });
  const streamConfig = { retentionPolicy: { ageSecs: 77 } };
  await missing.append(input([text("a")], { streamConfig }));
  const session = await client.basin(basin).stream("session").appendSession({ streamConfig });
  await (await session.submit(input([text("a")]))).ack();
  await session.close();
  const reading = { start: { from: { seqNum: 0 } }, stop: { waitSecs: 0 }, streamConfig };
  for (const transport of ["s2s", "fetch"]) {
    const read = client.basin(basin).stream(`read-${transport}`, { forceTransport: transport });
    for await (const _ of await read.readSession(reading)) throw new Error("it has no records");
  }
  const ages = {};
  for (const stream of ["unary", "session", "read-s2s", "read-fetch"]) {
    ages[stream] = (await streams.getConfig({ stream })).retentionPolicy.ageSecs;
  }
  tell("ages", ages);
}
