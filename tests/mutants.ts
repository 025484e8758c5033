/**
 * Do the tests notice? It breaks a script in one place, runs the tests that concern it, and lists the
 * breaks that none of them notices:
 *
 * ```sh
 * deno run --allow-all tests/mutants.ts tcp_server.ts [n] [seed] [test files]
 * ```
 *
 * A break turns a comparison, a condition or a sign, changes a constant, or leaves out a statement or
 * an `await`. The same seed makes the same `n` breaks (30, unless it is given) of the same source. It
 * all happens in a copy of this folder, and a hanging test is given twice the time that all of them
 * take without a break.
 *
 * A break that survives is a test that is missing, code that does nothing, or one of a kind: a
 * longer pause, a larger buffer. That is for a reader to say.
 *
 * @module
 */

import { fileUrl, type Random, SCRIPTS, seededRandom } from "./_helpers.ts";
import { cleanUp } from "./run.ts";

/** They take long, and what they notice of a script others notice as well. */
const NOT_RUN = ["compile", "demo", "docs", "grade", "interop", "ship"];
/** These compare the source's text, and would notice any break: file, and how their names begin. */
const ABOUT_TEXT = ["tests/cli_test.ts", "what scripts share", "a letter that differs"] as const;

/** A break: the text from `at` to `end` becomes `to`. */
type Mutant = { kind: string; at: number; end: number; to: string };

// ---- What can be broken ----

/** The source with its comments, strings and regular expressions blanked out, place for place. */
export function codeOnly(source: string): string {
  const parts = [
    /^#![^\n]*/,
    /\/\*[^]*?\*\//, // comments
    /\/\/[^\n]*/,
    /"(?:\\.|[^"\\\n])*"/, // strings
    /'(?:\\.|[^'\\\n])*'/,
    /`(?:\\.|[^`\\])*`/,
    /(?<=[(,=:[!&|?{};\n] *|return )\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[*])+\/[a-z]*/, // regular expressions
  ];
  const any = new RegExp(parts.map(({ source }) => source).join("|"), "g");
  return source.replace(any, (text) => text.replace(/[^\n]/g, " "));
}

/** Whether a line can be broken: not an import, nor one of a type. */
function isCode(line: string): boolean {
  return !/^\s*(import|export type|type|interface|readonly \w+\??:|\w+\??: [^,]+; *$)/.test(line);
}

const STATEMENT = /^\s*(?!(?:const|let|using|await using|export|throw|type) )\w[^{}]*;(?= *$)/g;

const TURNED: Record<string, string> = {
  "===": "!==",
  "!==": "===",
  "<": "<=",
  "<=": "<",
  ">": ">=",
  ">=": ">",
  "&&": "||",
  "||": "&&",
  "+": "-",
  "-": "+",
  "true": "false",
  "false": "true",
};

/** All breaks of a source, by kind. */
export function mutantsOf(source: string): Map<string, Mutant[]> {
  const code = codeOnly(source);
  const found: Mutant[] = [];
  let start = 0;
  let inClass = false;
  let before = ";"; // the end of the line before
  for (const line of code.split("\n")) {
    if (/^\S/.test(line)) inClass = /\bclass\b/.test(line);
    const add = (kind: string, pattern: RegExp, change: (text: string) => string): void => {
      for (const { index, 0: text } of line.matchAll(pattern)) {
        const at = start + index;
        found.push({
          kind,
          at,
          end: at + text.length,
          to: change(source.slice(at, at + text.length)),
        });
      }
    };
    if (isCode(line)) {
      const turn = (text: string): string => TURNED[text]!;
      add("comparison", /(?<= )(===|!==|<=|>=|<|>)(?= )/g, turn);
      add("condition", /(?<= )(&&|\|\|)(?= )/g, turn);
      add("condition", /(?<=\b(?:if|while) \()[^()]+(?=\) )/g, (text) => `!(${text})`);
      add("sign", /(?<=[\w)\]] )[+-](?= [\w(])/g, turn);
      add("sign", /\+\+/g, () => "--");
      add("constant", /\b(true|false)\b/g, turn);
      add("constant", /(?<![\w.$])\d[\d_]*(?:\.\d+)?\b(?!\w)/g, (text) => {
        const value = Number(text.replaceAll("_", ""));
        return `${value < 2 ? value + 1 : value * 2}`;
      });
      add("await", /\bawait (?!using)/g, () => "");
      const isMember = inClass && /^ {2}\S/.test(line);
      if (!isMember && /[;{}]$|^$/.test(before)) {
        add("statement", STATEMENT, (text) => `${/^\s*/.exec(text)![0]};`);
      }
    }
    if (line.trim()) before = line.trimEnd();
    start += line.length + 1;
  }
  return Map.groupBy(found, ({ kind }) => kind);
}

/** `count` breaks, of all kinds alike. */
function choose(kinds: Map<string, Mutant[]>, count: number, random: Random): Mutant[] {
  const piles = [...kinds.values()].map((pile) => [...pile]);
  const chosen: Mutant[] = [];
  while (chosen.length < count && piles.some((pile) => pile.length > 0)) {
    for (const pile of piles.filter((pile) => pile.length > 0)) {
      chosen.push(...pile.splice(random.int(pile.length), 1));
    }
  }
  return chosen.slice(0, count);
}

/** `tcp_server.ts:40: if (size === null) break;  (=== → !==)` */
function describe(script: string, source: string, { at, end, to }: Mutant): string {
  const number = source.slice(0, at).split("\n").length;
  const line = source.split("\n")[number - 1]!.trim();
  const [from, into] = [source.slice(at, end), to].map((text) => text.trim() || "nothing");
  return `${script}:${number}: ${line}  (${from === line ? "left out" : `${from} → ${into}`})`;
}

// ---- Whether the tests notice ----

/** The test files that concern a script, its own first. */
async function testsOf(script: string): Promise<string[]> {
  const name = script.replace(/^.*\/|\.ts$/g, "");
  const helper = `_${name.split("_")[0]}.ts`;
  const notRun = NOT_RUN.filter((file) => file !== name);
  const files: string[] = [];
  for await (const { name: file } of Deno.readDir(fileUrl("tests"))) {
    if (!file.endsWith("_test.ts") || notRun.includes(file.replace("_test.ts", ""))) continue;
    const text = await Deno.readTextFile(fileUrl(`tests/${file}`));
    if (text.includes(script) || text.includes(helper) || /\bSCRIPTS\b/.test(text)) {
      files.push(file);
    }
  }
  const isOwn = (file: string): boolean => file.startsWith(name);
  return files.sort((a, b) => Number(isOwn(b)) - Number(isOwn(a)) || (a < b ? -1 : 1))
    .map((file) => `tests/${file}`);
}

/** A copy of what git knows of this folder, with what is changed in it. */
async function copyTree(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "echo-mutants-" });
  const script = `git ls-files -co --exclude-standard | tar cf - -T - | tar xf - -C "${folder}"`;
  const { success } = await new Deno.Command("sh", { args: ["-c", script], cwd: fileUrl(".") })
    .output();
  if (!success) throw new Error("cannot copy this folder: are git and tar here?");
  const [file, ...names] = ABOUT_TEXT;
  let text = await Deno.readTextFile(`${folder}/${file}`);
  for (const name of names) {
    if (!text.includes(`Deno.test("${name}`)) throw new Error(`no test "${name}…" in ${file}`);
    text = text.replace(`Deno.test("${name}`, `Deno.test.ignore("${name}`);
  }
  await Deno.writeTextFile(`${folder}/${file}`, text);
  return folder;
}

/** Runs tests until one fails, and returns which, or "survived", "too long", "no program". */
async function runTests(folder: string, files: string[], limitMs: number): Promise<string> {
  const run = `echo-test-${crypto.randomUUID().slice(0, 8)}`;
  const jobs = `${2 * navigator.hardwareConcurrency}`;
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "--allow-all",
      "--no-check",
      "--parallel",
      "--fail-fast",
      ...files,
    ],
    cwd: folder,
    env: { ECHO_TEST_RUN: run, SEED: "1", DENO_JOBS: jobs, TMPDIR: `${folder}/tmp`, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, limitMs);
  const { success, stdout } = await child.output();
  clearTimeout(timer);
  await cleanUp(run);
  if (success) return "survived";
  if (late) return "too long";
  const text = new TextDecoder().decode(stdout);
  const [, file, name] = /^\.\/(tests\/\S+) => (.*?) \.\.\. .*FAILED/m.exec(text) ?? [];
  return file ? `${file}: ${name}` : "no program";
}

/** All scripts, with a break in one; where that one shares the place with others, in these as well. */
function broken(sources: Map<string, string>, script: string, mutant: Mutant): Map<string, string> {
  const source = sources.get(script)!;
  const breakIn = (from: number, to: number): string =>
    source.slice(from, mutant.at) + mutant.to + source.slice(mutant.end, to);
  const isShared = source.slice(0, mutant.at).includes("\n// ---- The same in ");
  const [start, end] = [Math.max(mutant.at - 200, 0), mutant.end + 200]; // found once in another
  const around = source.slice(start, end);
  return new Map([...sources].map(([name, text]) => {
    if (name === script) return [name, breakIn(0, source.length)];
    return [name, isShared ? text.replace(around, () => breakIn(start, end)) : text];
  }));
}

/** Makes the breaks one after the other, runs the tests at each, and returns what survived. */
async function campaign(
  script: string,
  source: string,
  { mutants, files }: { mutants: Mutant[]; files: string[] },
): Promise<string[]> {
  const folder = await copyTree();
  const sources = new Map(
    [...SCRIPTS, script].map((name) => [name, Deno.readTextFileSync(`${folder}/${name}`)]),
  );
  const survivors: string[] = [];
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, () => {
      Deno.removeSync(folder, { recursive: true });
      Deno.exit(130);
    });
  }
  try {
    await Deno.mkdir(`${folder}/tmp`);
    console.log(`${script}: ${mutants.length} breaks, ${files.length} test files`);
    let start = performance.now();
    for (let said; (said = await runTests(folder, files, 600_000)) !== "survived";) {
      console.log(`fails without a break, and is left out: ${said}`);
      const failing = said.split(": ")[0]!;
      if (!files.includes(failing)) throw new Error(said);
      files = files.filter((file) => file !== failing);
      start = performance.now();
    }
    const limitMs = 2 * (performance.now() - start) + 10_000;
    for (const mutant of mutants) {
      for (const [name, text] of broken(sources, script, mutant)) {
        await Deno.writeTextFile(`${folder}/${name}`, text);
      }
      const verdict = await runTests(folder, files, limitMs);
      const description = describe(script, source, mutant);
      console.log(`${description}\n    ${verdict}`);
      if (verdict === "survived") survivors.push(description);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  return survivors;
}

if (import.meta.main) {
  const [script, count = "30", seed = "1", ...files] = Deno.args;
  if (!script) {
    console.error("mutants.ts SCRIPT [COUNT] [SEED] [TEST FILE…]");
    Deno.exit(2);
  }
  const source = await Deno.readTextFile(fileUrl(script));
  const mutants = choose(mutantsOf(source), Number(count), seededRandom(Number(seed)));
  if (files.length === 0) files.push(...await testsOf(script));
  const survivors = await campaign(script, source, { mutants, files });
  console.log([`\n${survivors.length} of ${mutants.length} survived`, ...survivors].join("\n"));
}
