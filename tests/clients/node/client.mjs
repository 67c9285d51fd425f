// SPDX-License-Identifier: Apache-2.0
// The TypeScript SDK's client does the main job against the URL given, then prints what it saw.
// Given a file of calls in place of a program that hangs, it makes these and prints the results.
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const client = new Client({ name: "typescript", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
const call = (name, args, options) =>
  client.callTool({ name, arguments: args }, undefined, options);
const tools = (await client.listTools()).tools.map((tool) => tool.name);
if (process.argv[3].endsWith(".json")) {
  const results = [];
  for (const [name, args] of JSON.parse(readFileSync(process.argv[3], "utf8")))
    results.push(await call(name, args));
  console.log(JSON.stringify({ tools, results }));
  process.exit();
}
const made = await call("create_environment", { runtime: "shell" });
const environment_id = made.structuredContent.environment_id;
const done = await call("execute", { environment_id, code: "echo from TypeScript" });
const refused = await call("execute", { environment_id: "nonsense", code: "echo x" });
const stop = new AbortController();
const hanging = call("execute", { environment_id, code: process.argv[3] }, { signal: stop.signal })
  .then(() => "answered", () => "cancelled");
setTimeout(() => stop.abort("enough"), 500);
const ended = await hanging;
await call("destroy_environment", { environment_id });
console.log(
  JSON.stringify({
    tools,
    stdout: done.structuredContent.stdout,
    refused: refused.isError,
    why: refused.content[0].text,
    ended,
  }),
);
await client.close();
