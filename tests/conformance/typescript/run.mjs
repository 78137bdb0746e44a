// node run.mjs SCENARIO ARGUMENTS: run one scenario against a server; ARGUMENTS is a JSON object.

import * as interruptions from "./interruptions.mjs";
import * as records from "./records.mjs";
import * as resources from "./resources.mjs";
import * as sessions from "./sessions.mjs";

const scenarios = { ...resources, ...records, ...sessions, ...interruptions };
const [name, parameters] = process.argv.slice(2);
await scenarios[name](JSON.parse(parameters));
// The client keeps its connections, which would keep the process; what was told has to leave first.
process.stdout.write("", () => process.exit(0));
