/**
 * Verdicts for people and for machines: text, JSON lines, Gradescope's `results.json`, JUnit's XML.
 *
 * @module
 */

import { NOT_COUNTED, type Result, type Verdict } from "./verdict.ts";

const WIDTH = 80; // columns of a terminal

/** What became of one program: its verdicts and their sum, or why it could not be graded. */
export type Report =
  | { program: string; kind: string; verdicts: Verdict[]; result: Result }
  | { program: string; kind: string; error: string };

export const FORMATS = ["text", "json", "gradescope", "junit"] as const;
export type Format = typeof FORMATS[number];

// ---- Text ----

/** A verdict for a terminal of 80 columns: a line, and for a `no` what to know below it. */
export function formatVerdict(verdict: Verdict): string {
  const { task, name, beyond, passed, sent, came, cause, hint, guess } = verdict;
  const head = `${passed ? "ok" : passed === null ? "--" : "no"} ${task}${
    beyond ? "+" : " "
  } ${name}`;
  if (passed) {
    const end = fit(` → ${came}`, WIDTH / 2);
    return fit(`${head}: ${sent}`, WIDTH - end.length) + end;
  }
  if (passed === null) return fit(`${head}: ${cause}`, WIDTH);
  return [
    head,
    ...wrap("sent", sent),
    ...wrap("came", came),
    ...wrap("seen", cause!),
    ...wrap(guess ? "often" : "so", hint!),
  ].join("\n");
}

/** `text`, indented behind `label`, in lines that fit. */
function wrap(label: string, text: string): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ").flatMap((word) => word.match(/.{1,66}/gs) ?? [""])) {
    if (line !== "" && line.length + 1 + word.length > WIDTH - 14) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].map((line, i) =>
    `      ${(i === 0 ? `${label}:` : "").padEnd(7)}${line}`
  );
}

/** `text`, cut to so many columns; it has no character that takes more than one. */
function fit(text: string, columns: number): string {
  return text.length <= columns ? text : `${text.slice(0, columns - 1)}…`;
}

/** A line for each task: what it asks for, and what is beyond it. */
export function formatResult({ points }: Result, verdicts: Verdict[]): string {
  return Object.entries(points).map(([task, [got, asked]]) => {
    const beyond = verdicts.filter((verdict) => verdict.beyond && verdict.task === Number(task));
    const passed = beyond.filter(({ passed }) => passed).length;
    const more = beyond.length > 0 ? `, and beyond it ${passed} of ${beyond.length}` : "";
    return `task ${task}: ${got} of ${asked}${more}`;
  }).join("\n");
}

/** A line of the table of a class. */
export function formatRow(report: Report, width: number): string {
  const name = report.program.padEnd(width);
  if ("error" in report) return `--  ${name}  ${report.kind.padEnd(10)}  ${report.error}`;
  const { result, verdicts } = report;
  const marks = Object.entries(result.points).map(([task, [got, asked]]) =>
    `${task}: ${got}/${asked}`
  );
  const wrong = verdicts.filter(({ passed, beyond }) => passed === false && !beyond);
  const why = wrong.length > 0 ? wrong.map(({ name, mistake }) => `${name} (${mistake})`) : [];
  const row = `${result.passed ? "ok" : "no"}  ${name}  ${report.kind.padEnd(10)}  ` +
    marks.join("  ").padEnd(24);
  return `${row}${why.join(", ")}`.trimEnd();
}

// ---- Gradescope ----

/** One document as Gradescope reads it from `results.json`: of a class, all of its programs. */
export function formatGradescope(reports: Report[], { strict = false } = {}): string {
  const isClass = reports.length > 1;
  const tests = reports.flatMap((report) => {
    const prefix = isClass ? `${report.program}: ` : "";
    if ("error" in report) {
      const { program, kind, error } = report;
      return [{
        name: `${prefix}could not be graded`,
        score: 0,
        max_score: 1,
        status: "failed",
        output: error,
        extra_data: { program, kind },
      }];
    }
    return report.verdicts.map((verdict) => toGradescope(verdict, { strict, prefix }));
  });
  const sum = reports.map(marksOf).reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
  const seconds = reports.reduce(
    (sum, each) => sum + ("error" in each ? 0 : each.result.seconds),
    0,
  );
  return JSON.stringify({
    score: sum[0],
    execution_time: Math.round(seconds),
    output: reports.map((report) => formatRow(report, 0)).join("\n"),
    tests,
    extra_data: { programs: reports.map(toExtraData) },
  });
}

function toGradescope(
  verdict: Verdict,
  { strict, prefix }: { strict: boolean; prefix: string },
): Record<string, unknown> {
  const { program, kind, task, name, beyond, passed, mistake } = verdict;
  const isCounted = isAsked(verdict, strict);
  return {
    name: `${prefix}task ${task}${beyond ? "+" : ""}: ${name}`,
    score: isCounted && passed ? 1 : 0,
    max_score: isCounted ? 1 : 0,
    status: passed ? "passed" : "failed",
    output: formatVerdict(verdict),
    extra_data: { program, kind, task, beyond, passed, mistake },
  };
}

function toExtraData(report: Report): Record<string, unknown> {
  if ("error" in report) return { program: report.program, error: report.error };
  return { ...report.result };
}

/** Whether a verdict counts in the marks. */
function isAsked(verdict: Verdict, strict: boolean): boolean {
  return (strict || !verdict.beyond) && !NOT_COUNTED.has(verdict);
}

function marksOf(report: Report): [got: number, asked: number] {
  const all = "error" in report ? [] : Object.values(report.result.points);
  return [all.reduce((sum, [got]) => sum + got, 0), all.reduce((sum, [, asked]) => sum + asked, 0)];
}

// ---- JUnit ----

/**
 * A `testsuite` a program, a `testcase` a check. One that does not count, and one that was not
 * tried, is `skipped`.
 */
export function formatJunit(
  reports: Report[],
  { strict = false, startedAt = new Date() } = {},
): string {
  const suites = reports.map((report, id) => suiteOf(report, { strict, id, startedAt }));
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n${
    suites.join("\n")
  }\n</testsuites>`;
}

function suiteOf(
  report: Report,
  { strict, id, startedAt }: { strict: boolean; id: number; startedAt: Date },
): string {
  const { program } = report;
  const isError = "error" in report;
  const cases = isError
    ? [
      `    <testcase name="could not be graded" classname="${xml(program)}" time="0">\n` +
      `      <error message="${xml(report.error)}" type="error">${xml(report.error)}</error>\n` +
      "    </testcase>",
    ]
    : report.verdicts.map((verdict) => caseOf(verdict, strict));
  const count = (tag: string): number => cases.filter((each) => each.includes(`<${tag}`)).length;
  const attributes = {
    package: report.kind,
    id,
    name: program,
    timestamp: startedAt.toISOString().slice(0, 19),
    hostname: "localhost",
    tests: cases.length,
    failures: count("failure"),
    errors: count("error"),
    skipped: count("skipped"),
    time: isError ? 0 : report.result.seconds.toFixed(3),
  };
  const points = isError
    ? []
    : Object.entries(report.result.points).map(([task, [got, asked]]) =>
      `      <property name="task ${task}" value="${got}/${asked}"/>`
    );
  return [
    `  <testsuite ${
      Object.entries(attributes).map(([key, value]) => `${key}="${xml(`${value}`)}"`).join(" ")
    }>`,
    "    <properties>",
    ...points,
    "    </properties>",
    ...cases,
    "    <system-out/>",
    "    <system-err/>",
    "  </testsuite>",
  ].join("\n");
}

function caseOf(verdict: Verdict, strict: boolean): string {
  const { program, task, beyond, name, passed, seconds, hint, mistake, cause } = verdict;
  const classname = `${program}.task ${task}${beyond ? "+" : ""}`;
  const head = `    <testcase name="${xml(name)}" classname="${xml(classname)}" ` +
    `time="${seconds.toFixed(3)}"`;
  if (passed) return `${head}/>`;
  const isFailure = passed === false && isAsked(verdict, strict);
  const text = xml(formatVerdict(verdict));
  const inside = isFailure
    ? `<failure message="${xml(hint!)}" type="${mistake}">${text}</failure>`
    : `<skipped message="${xml(passed === null ? cause! : `beyond the task: ${hint}`)}"/>`;
  return `${head}>\n      ${inside}\n    </testcase>`;
}

/** Text as XML takes it: no control characters, which it cannot hold. */
function xml(text: string): string {
  const names: Record<string, string> = { "<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;" };
  return text.replace(/[^\t\n\r\x20-\ufffd]/g, "?")
    .replace(/[<>&"]/g, (character) => names[character]!);
}
