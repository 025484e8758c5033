/**
 * Each script alone: what it imports, a copy of it in an empty folder, and a copy whose defaults are
 * changed in their one place.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  decode,
  fileUrl,
  freePort,
  LIMIT,
  LINUX,
  Program,
  SCRIPTS,
  spawn,
  unless,
} from "./_helpers.ts";

const PAIRS = [["tcp_server.ts", "tcp_client.ts"], ["udp_server.ts", "udp_client.ts"]] as const;
const DOWNLOAD_MS = 20_000; // for what JSR has, once: Deno keeps it

/** The names of JSR in use, and their npm copies: all that a script without JSR needs beside it. */
const MAPPING = Object.fromEntries(
  Object.entries(JSON.parse(await Deno.readTextFile(fileUrl("deno.json"))).imports)
    .filter(([name]) => name.startsWith("jsr:")),
);

for (const script of SCRIPTS) {
  Deno.test(`${script} imports jsr:@std in full, and node: where a comment says why`, async () => {
    const source = await Deno.readTextFile(fileUrl(script));
    const imports = [...source.matchAll(/^import\b[^;]*?\bfrom "(.+)";|\bimport\((.+?)\)/gm)]
      .map(([, name, dynamic]) => name ?? JSON.parse(dynamic!));
    assert(imports.length > 0);
    for (const name of imports) {
      assertMatch(name, /^(jsr:@std\/[\w-]+@\^\d+\.\d+\.\d+\/[\w-]+|node:[\w/]+)$/);
      if (name.startsWith("jsr:")) assertStringIncludes(JSON.stringify(MAPPING), `"${name}":`);
    }
    for (const line of source.split("\n").filter((line) => /["']node:/.test(line))) {
      assertStringIncludes(line, "//");
    }
    assertMatch(
      source,
      /^#!\/usr\/bin\/env -S deno run( --unstable-net)? --allow-net=127\.0\.0\.1\S*\n/,
    );
    assert(source.endsWith("\nif (import.meta.main) await run(main);\n"));
  });
}

/** A folder with one script in it, and nothing else but what `beside` names. */
async function makeFolder(
  script: string,
  { beside = {}, edit = (source) => source }: {
    beside?: Record<string, unknown>;
    edit?: (source: string) => string;
  } = {},
): Promise<AsyncDisposable & { path: string }> {
  const path = await Deno.makeTempDir();
  await Deno.writeTextFile(`${path}/${script}`, edit(await Deno.readTextFile(fileUrl(script))));
  for (const [name, content] of Object.entries(beside)) {
    await Deno.writeTextFile(`${path}/${name}`, JSON.stringify(content));
  }
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** Runs the script of a folder in there, with the permissions of its own first line. */
function run(script: string, folder: { path: string }, net: string, ...args: string[]): Program {
  const unstable = script.startsWith("udp") ? ["--unstable-net"] : [];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", ...unstable, `--allow-net=${net}`, script, ...args],
    cwd: folder.path,
    ...piped,
  });
  return new Program(script, command.spawn());
}

/** A conversation of a server and a client, each alone in its folder. */
async function converse(
  [server, client]: readonly [string, string],
  beside: Record<string, unknown>,
): Promise<void> {
  await using home = await makeFolder(server, { beside });
  await using abroad = await makeFolder(client, { beside });
  await using serving = run(server, home, "127.0.0.1", "--port", "0");
  const port = `${await serving.port()}`;
  await using asking = run(client, abroad, "127.0.0.1", "--port", port, "hello", "stop");
  const { code, stdout, stderr } = await asking.finish();
  assertEquals([code, stdout, stderr], [0, "hello\nstop\n", ""]);
  for (const { path } of [home, abroad]) {
    const names = [...Deno.readDirSync(path)].map(({ name }) => name)
      .filter((name) => name !== "deno.lock"); // Deno's own
    assertEquals(names.length, 1 + Object.keys(beside).length);
  }
}

for (const pair of PAIRS) {
  Deno.test(
    `${pair.join(" and ")}, each alone beside a mapping to npm, hold a conversation`,
    LIMIT,
    () => converse(pair, { "deno.json": { imports: MAPPING } }),
  );
}

/** Why a script cannot take its imports from JSR here, or nothing. */
async function whyNoJsr(): Promise<string> {
  const path = await Deno.makeTempDir();
  try {
    const code = Object.keys(MAPPING).map((name) => `import ${JSON.stringify(name)};\n`).join("");
    await Deno.writeTextFile(`${path}/imports.ts`, code);
    const command = new Deno.Command(Deno.execPath(), {
      args: ["cache", "--no-config", "imports.ts"], // nor one in a folder above
      cwd: path,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
      signal: AbortSignal.timeout(DOWNLOAD_MS),
    });
    const { success, stderr } = await command.output();
    if (success) return "";
    if (/failed to load|^$/.test(decode(stderr))) return "JSR cannot be reached";
    throw new Error(decode(stderr));
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

const noJsr = await whyNoJsr();
for (const pair of PAIRS) {
  Deno.test({
    ...unless(noJsr, `${pair.join(" and ")}, each alone in a folder, hold a conversation`),
    ...LIMIT,
    fn: () => converse(pair, {}),
  });
}

// ---- Defaults have one home ----

const HOST = "127.0.0.5";

for (const [server, client] of PAIRS) {
  Deno.test({
    ...unless(
      !LINUX && "one address on loopback here",
      `${server} and ${client}: other defaults, each changed in one place, hold everywhere`,
    ),
    ...LIMIT,
    fn: async (t) => {
      const port = freePort();
      function edit(source: string): string {
        const changes: [RegExp, string][] = [
          [/^const HOSTNAME = "127\.0\.0\.1";/gm, `const HOSTNAME = "${HOST}";`],
          [/^const PORT = 12_000;/gm, `const PORT = ${port};`],
          [/^const STOP_WORDS = \["stop", "exit"\];/gm, 'const STOP_WORDS = ["halt", "bye"];'],
        ];
        for (const [from, to] of changes) {
          assertEquals(source.match(from)?.length, 1, `${from}`);
          source = source.replace(from, to);
        }
        return source;
      }
      const beside = { "deno.json": { imports: MAPPING } };
      await using home = await makeFolder(server, { beside, edit });
      await using abroad = await makeFolder(client, { beside, edit });
      const net = "127.0.0.1,127.0.0.5";

      for (const [script, folder] of [[server, home], [client, abroad]] as const) {
        await t.step(`${script} --help`, async () => {
          await using program = run(script, folder, net, "--help");
          const { code, stdout } = await program.finish();
          assertEquals(code, 0);
          for (const text of [HOST, `${port}`, "halt, bye"]) {
            assertStringIncludes(stdout, `(default ${text})`);
          }
          assert(!/127\.0\.0\.1\b|12000|\bstop, exit/.test(stdout), stdout);
        });
      }

      await t.step("the command lines", async () => {
        await using serving = run(server, home, net);
        assertMatch(await serving.nextLine(), new RegExp(`^listening on ... ${HOST}:${port}$`));
        await using asking = run(client, abroad, net); // its input stays open: the word ends it
        for (const sentence of ["stop", "halt"]) {
          await asking.write(`${sentence}\n`);
          assertEquals(await asking.nextLine(), sentence);
        }
        const { code, stdout, stderr } = await asking.finish();
        assertEquals([code, stdout, stderr], [0, "", ""]);
        await serving.stop();
      });

      await t.step("the exported functions", async () => {
        await using program = spawn("-", [], { allowNet: net });
        await program.write(`
          const input = ReadableStream.from(["stop\\n", "bye\\n"].map((text) =>
            new TextEncoder().encode(text)));
          const { serve } = await import("file://${home.path}/${server}");
          const client = await import("file://${abroad.path}/${client}");
          const events: string[] = [];
          await using server = serve({ onEvent: (event) => events.push(event.reason) });
          console.log(server.addr.hostname, server.addr.port);
          const socket = await (client.connect ?? client.open)();
          const totals = await client.converse(socket, input, new WritableStream());
          socket.close();
          await server.shutdown();
          console.log(events.filter(Boolean).join(" "));
        `);
        await program.end();
        const { code, stdout, stderr } = await program.finish();
        assertEquals([code, stdout, stderr], [0, `${HOST} ${port}\nstop\n`, ""]);
      });
    },
  });
}
