/**
 * The three defaults: the host, the port and the stop words. Where one is changed in a script and
 * not in all of them, or not in what is said of it, this test fails first, and names it.
 * Other tests take them from the scripts, as `DEFAULTS`.
 *
 * @module
 */

import { decode, fileUrl, LIMIT, runScript, SCRIPTS } from "./_helpers.ts";

/** A place that has a default, and what it says there. */
type Said = [place: string, value: string];

/** What the first group of `pattern`, or both, match in `text`. */
function find(place: string, text: string, pattern: RegExp): Said {
  const [, ...values] = pattern.exec(text) ?? [];
  return [place, values.filter(Boolean).join(", ") || "not to be found"];
}

function textOf(path: string): string {
  return decode(Deno.readFileSync(fileUrl(path)));
}

const README = textOf("README.md");
const SOURCES = SCRIPTS.map((script): [string, string] => [script, textOf(script)]);
const HELPS = await Promise.all(SCRIPTS.map(async (script): Promise<[string, string]> => {
  const { stdout } = await runScript(script, ["--help"], { allowNet: false });
  return [`${script} --help`, stdout];
}));

/** @throws Error unless all places say the same */
function assertSame(what: string, said: Said[]): void {
  const places = Map.groupBy(said, ([, value]) => value);
  if (places.size === 1) return;
  const parts = [...places].map(([value, at]) =>
    `${value} in ${at.map(([place]) => place).join(", ")}`
  );
  throw new Error(`the default ${what} ${parts.join("; but ")}`);
}

Deno.test("the default host is the same everywhere", LIMIT, () => {
  assertSame("host is", [
    ...SOURCES.map(([script, text]) => find(script, text, /^const HOSTNAME = "(.*?)";/m)),
    ...HELPS.map(([help, text]) => find(help, text, /--host HOST .*\(default (\S+)\)/)),
    ...SOURCES.map(([script, text]) =>
      find(`the first line of ${script}`, text, /^#!.* --allow-net=([\w.]+)/)
    ),
    find("README.md", README, /^listening on tcp (.*):\d+$/m),
  ]);
});

Deno.test("the default port is the same everywhere", LIMIT, () => {
  const tcp = SOURCES.filter(([script]) => script.startsWith("tcp"));
  assertSame("port is", [
    ...SOURCES.map(([script, text]): Said => {
      const [place, value] = find(script, text, /^const PORT = ([\d_]+);/m);
      return [place, value.replace("_", "")];
    }),
    ...HELPS.map(([help, text]) => find(help, text, /--port PORT .*\(default (\d+)\)/)),
    ...tcp.map(([script, text]) =>
      find(`the first line of ${script}`, text, /^#!.* --allow-net=[\w.]+:(\d+)\n/)
    ),
    find("README.md, TCP", README, /^listening on tcp .*:(\d+)$/m),
    find("README.md, UDP", README, /^listening on udp .*:(\d+)$/m),
    find("the lab's first server", textOf("docs/lab/task1_server.py"), / else (\d+)$/m),
  ]);
});

Deno.test("the default stop words are the same everywhere", LIMIT, () => {
  const sources = SOURCES.map(([script, text]) =>
    find(script, text, /^const STOP_WORDS = \["(.*?)", "(.*?)"\];/m)
  );
  const words = sources[0]![1].split(", ");
  assertSame("stop words are", [
    ...sources,
    ...HELPS.map(([help, text]) => find(help, text, /--stop WORD….*\(default (.*)\)/)),
    ["README.md", words.filter((word) => README.includes(`\`${word}\``)).join(", ")],
  ]);
});
