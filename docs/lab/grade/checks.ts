/**
 * What is asked, as data: for each check its task, its name, its steps, the mistake that it suggests
 * where what was seen leaves a choice, and the checks without which it shows nothing new.
 *
 * In a text `{1}` to `{9}` stand for random words, `{1#200}` for one that is repeated to 200 letters,
 * `{stop}` for a stop word, `{stopline}` for it with the line end that the server was seen to obey,
 * `{lf}` for a line end over TCP and for nothing over UDP.
 *
 * @module
 */

import type { Mistake } from "./mistakes.ts";
import type { GradeOptions, Kind } from "./verdict.ts";

/** What is sent or typed: a template, or bytes. */
export type Text = string | Uint8Array<ArrayBuffer>;

/** A step of a server's client; `by` says which of them (default: the first). */
export type ServerStep =
  | { do: "open" | "echo" | "probe" | "beside" | "settle" | "quiet" | "nothing"; by: number }
  | { do: "halfClose" | "end" | "leave" | "reset" | "pause" | "resume" | "stop"; by: number }
  | { do: "send"; text: Text; by: number }
  | { do: "print"; text: string; by: number };

/** A step of a client's user, or of its server. */
export type ClientStep =
  | {
    do: "type" | "show" | "showText" | "mayShow" | "answerOther" | "reply" | "stranger";
    text: string;
  }
  | { do: "hear"; text: string; then?: string }
  | { do: "hearOrEnd"; text: string }
  | { do: "showAgain"; text: string; decoy: string }
  | { do: "silence" | "replyAll" | "replyBlanks" | "awaitDrain" | "loss" }
  | { do: "endInput" | "mayEnd" | "hangUp" | "giveUp" | "exit" | "word" };

/** A check: a row of one of the tables below. */
export type Check<Step = ServerStep | ClientStep> = {
  /** Which of the tasks 1 to 3 it is about, over UDP too; `+`: it is beyond what that asks for. */
  step: "1" | "1+" | "2" | "2+" | "3" | "3+";
  name: string;
  steps: Step[];
  /** The mistake, where what was seen leaves a choice. */
  usual?: Mistake;
  /** Checks without which this one shows nothing new. */
  needs?: string[];
  /** A program may die of it: the greater, the later. */
  deadly?: 1 | 2 | 3;
  /** With each of the stop words in turn, or until one of them passes. */
  stop?: "each" | "any";
  /** So many steps are enough of a program that takes its time. */
  enough?: number;
  /** No server is there. */
  isDead?: true;
};

/** A row: which task, its name, its steps, and the rest. */
const check = <Step>(
  step: Check["step"],
  name: string,
  steps: Step[],
  more: Omit<Check, "step" | "name" | "steps"> = {},
): Check<Step> => ({ step, name, steps, ...more });

// ---- Steps ----

const send = (text: Text, by = 1): ServerStep => ({ do: "send", text, by });
const step = (name: Exclude<ServerStep["do"], "send" | "print">, by = 1): ServerStep => ({
  do: name,
  by,
});
/** Sends, and waits for the same. */
const say = (text: Text, by = 1): ServerStep[] => [send(text, by), step("echo", by)];
const print = (text: string, by = 1): ServerStep => ({ do: "print", text, by });
/** `many` times the same steps, with the number in front. */
const repeat = <Step>(many: number, steps: (i: number) => Step[]): Step[] =>
  Array.from({ length: many }, (_, i) => steps(i + 1)).flat();

const HELLO = "Hello {1}{lf}";
const SENTENCES = 30; // in turn
const ENOUGH = 2 * 12; // steps: twelve sentences and their echoes, more than ten
const LETTERS = "{1} grüßt 你好";
const ALL_BYTES = Uint8Array.from({ length: 256 }, (_, i) => i === 255 ? 10 : i < 10 ? i : i + 1);
const INSIDE = ["do not {stop} yet", "{stop} not", "un{stop}"];

// ---- Servers ----

const PRINTS = check("1", "prints the sentence", [send(HELLO), print("Hello {1}")]);

/** Of a server that is graded as task 1, over TCP or UDP. */
const PRINT_CHECKS: Check<ServerStep>[] = [
  PRINTS,
  check("1", "sends nothing back", [send(HELLO), step("nothing")], { usual: "answersInTask1" }),
  check("1", "prints other letters", [send(`${LETTERS}{lf}`), print(LETTERS)], {
    needs: ["prints the sentence"],
  }),
  check("1", "prints 200 letters", [send("{1#200}{lf}"), print("{1#200}")], {
    needs: ["prints the sentence"],
  }),
];

const TCP_PRINT_CHECKS: Check<ServerStep>[] = [
  ...PRINT_CHECKS,
  check("1+", "prints without a line end", [send("Hello {1}"), print("Hello {1}")], {
    usual: "waitsForLine",
    needs: ["prints the sentence"],
  }),
  check(
    "1+",
    "prints two pieces",
    [send("{1} and "), step("settle"), send("{2}\n"), print("{2}")],
    { usual: "printsPart", needs: ["prints the sentence"] },
  ),
  check("1+", "prints the next client's", [
    send(HELLO),
    print("Hello {1}"),
    step("leave"),
    send("Hello {2}\n", 2),
    print("{2}", 2),
  ], { usual: "oneClientEver", needs: ["prints the sentence"] }),
];

const NEXT = ["one sentence"];
const LETTER_CHECKS: Check<ServerStep>[] = [
  check("2", "other letters", say(`${LETTERS}{lf}`), { usual: "decodesAscii" }),
  check("2", "200 letters", say("{1#200}{lf}"), { usual: "cutsEcho" }),
  check("2", "blanks inside", say("Hello   {1}  {2}{lf}"), { usual: "changesBlanks" }),
];
const AROUND = check("2+", "blanks around", say("  Hello {1}  {lf}"), { usual: "changesBlanks" });

const TALK = ["many sentences"];
const TCP_SERVER_CHECKS: Check<ServerStep>[] = [
  PRINTS,
  check("2", "one sentence", [...say(HELLO), step("quiet")]),
  ...LETTER_CHECKS.map((check) => ({ ...check, needs: NEXT })),
  check("2", "an empty line", say("\n"), { usual: "emptyLineEnds", needs: NEXT }),
  check("2", "two lines in one piece", say("Hello {1}\nand {2}\n"), {
    usual: "oneLineARead",
    needs: NEXT,
  }),
  check("3", "many sentences", repeat(SENTENCES, (i) => say(`${i} {${i % 9 + 1}}\n`)), {
    usual: "readsOnce",
    enough: ENOUGH,
    needs: NEXT,
  }),
  check("3", "long, then short", [...say("{1#200}\n"), ...say("Hi {2}\n"), step("quiet")], {
    usual: "keepsOldBytes",
    needs: ["200 letters", ...TALK],
  }),
  check("3", "behind an empty line", [...say("\n"), ...say(HELLO)], {
    usual: "emptyLineEnds",
    needs: ["an empty line", ...TALK],
  }),
  check("3", "stop word inside", [...INSIDE.flatMap((text) => say(`${text}\n`)), ...say(HELLO)], {
    usual: "findsStopInside",
    stop: "each",
    needs: ["long, then short"],
  }),
  check("3", "stop word", [...say(HELLO), step("stop")], {
    usual: "noStopWord",
    needs: ["stop word inside"],
  }),
  { ...AROUND, needs: NEXT },
  check("2+", "no line end", [...say("Hello {1}"), send("\n")], {
    usual: "waitsForLine",
    needs: NEXT,
  }),
  check("2+", "CRLF", say("Hello {1}\r\n"), { usual: "changesLineEnds", needs: NEXT }),
  check("2+", "all 256 byte values", say(ALL_BYTES), {
    usual: "decodesBytes",
    needs: ["other letters"],
    deadly: 2,
  }),
  check("2+", "a line in two pieces", [
    send("Hello {1}"),
    step("settle"),
    send(" and {2}\n"),
    step("echo"),
  ], { usual: "readsOnce", needs: NEXT }),
  check("3+", "stop word's echo", [...say("{stopline}"), step("end")], {
    usual: "stopNotEchoed",
    needs: ["stop word"],
  }),
  check("3+", "stop word without a line end", [send("{stop}"), step("end")], {
    usual: "waitsForLine",
    needs: ["stop word", "no line end"],
  }),
  check("3+", "stop word and CRLF", [send("{stop}\r\n"), step("end")], {
    usual: "comparesLineEnd",
    needs: ["stop word"],
  }),
  check("2+", "end of input", [...say(HELLO), step("halfClose"), step("end")], {
    usual: "ignoresEnd",
    needs: NEXT,
    deadly: 1,
  }),
  check("2+", "half-close at once", [send(HELLO), step("halfClose"), step("echo")], {
    usual: "cutsAtEnd",
    needs: ["end of input"],
    deadly: 1,
  }),
  check("2+", "1 MiB", [
    send(`${"{1#1023}\n".repeat(1024)}`),
    step("halfClose"),
    step("echo"),
    step("end"),
  ], {
    usual: "losesMuch",
    needs: ["two lines in one piece", "a line in two pieces", "half-close at once"],
    deadly: 1,
  }),
  check("2+", "the next client", [...say(HELLO), step("leave"), ...say("Hello {2}\n", 2)], {
    usual: "oneClientEver",
    needs: NEXT,
    deadly: 1,
  }),
  check("3+", "beside a silent client", [step("open"), send(HELLO, 2), step("beside", 2)], {
    usual: "oneAtATime",
    needs: [...TALK, "the next client"],
    deadly: 1,
  }),
  check(
    "3+",
    "five at once",
    [1, 2].flatMap((
      round,
    ) => [
      ...repeat(5, (i) => [send(`${i} {${i + (round - 1) * 4}}\n`, i)]),
      ...repeat(5, (i) => [step("echo", i)]),
    ]),
    {
      usual: "mixesClients",
      needs: ["beside a silent client"],
      deadly: 1,
    },
  ),
  check("3+", "16 MiB, read late", [
    step("pause"),
    send("{1#1023}\n".repeat(16_384)),
    step("settle"),
    step("resume"),
    step("echo"),
  ], { usual: "losesMuch", needs: ["1 MiB"], deadly: 2 }),
  check("3+", "after a stop word", [
    ...say(HELLO),
    send("{stopline}"),
    step("end"),
    step("leave"),
    ...say("Hello {2}\n", 2),
  ], {
    usual: "stopEndsServer",
    needs: ["stop word", "the next client"],
    deadly: 2,
  }),
  check("3+", "after one left in mid-line", [
    send("Hello {1}"),
    step("settle"),
    step("leave"),
    ...say("Hello {2}\n", 2),
  ], { usual: "diesOfLeaver", needs: [...TALK, "the next client"], deadly: 3 }),
  check("3+", "after a reset", [...say(HELLO), step("reset"), ...say("Hello {2}\n", 2)], {
    usual: "diesOfReset",
    needs: [...TALK, "the next client"],
    deadly: 3,
  }),
];

const IN_TURN = ["two peers in turn"];
const UDP_SERVER_CHECKS: Check<ServerStep>[] = [
  PRINTS,
  check("2", "one sentence", say(HELLO)),
  check("2", "one in, one out", [
    ...repeat(SENTENCES, (i) => say(`${i} {${i % 9 + 1}}`)),
    step("quiet"),
  ], {
    usual: "readsOnce",
    enough: ENOUGH,
    needs: NEXT,
  }),
  check("2", "two peers in turn", [
    ...say("Hello {1}"),
    ...say("Hello {2}", 2),
    ...say("{3}", 2),
    ...say("{4}"),
  ], {
    usual: "onePeer",
    needs: ["one in, one out"],
  }),
  ...LETTER_CHECKS.map((check) => ({ ...check, needs: IN_TURN })),
  check("2", "1 byte", say("{1#1}"), { needs: IN_TURN }),
  check("3", "long, then short", [...say("{1#200}"), ...say("Hi {2}")], {
    usual: "keepsOldBytes",
    needs: IN_TURN,
  }),
  check("3", "stop word inside", [...INSIDE.flatMap((text) => say(text)), ...say("Hello {1}")], {
    usual: "findsStopInside",
    stop: "each",
    needs: ["long, then short"],
  }),
  { ...AROUND, needs: IN_TURN },
  check("2+", "a line end", say("Hello {1}\n"), { usual: "cutsLineEnd", needs: IN_TURN }),
  check("2+", "1,472 bytes", say("{1#1472}"), {
    usual: "cutsDatagram",
    needs: ["1 byte"],
    deadly: 1,
  }),
  check("2+", "8,192 bytes", say("{1#8192}"), {
    usual: "cutsDatagram",
    needs: ["1,472 bytes"],
    deadly: 1,
  }),
  check("2+", "65,507 bytes", say("{1#65507}"), {
    usual: "cutsDatagram",
    needs: ["8,192 bytes"],
    deadly: 1,
  }),
  check("2+", "bytes that are no text", [
    ...say(Uint8Array.of(0xff, 0xfe, 0x80, 0xc3)),
    ...say("Hello {1}"),
  ], { usual: "decodesBytes", needs: ["two peers in turn", "other letters"], deadly: 2 }),
  check("2+", "0 bytes", [...say(""), ...say("Hello {1}")], {
    usual: "emptyDatagram",
    needs: IN_TURN,
    deadly: 2,
  }),
  check("3+", "after a stop word", [
    ...say("Hello {1}"),
    send("{stop}"),
    step("settle"),
    step("leave"),
    ...say("Hello {2}", 2),
  ], {
    stop: "each",
    usual: "stopEndsServer",
    needs: IN_TURN,
    deadly: 3,
  }),
];

// ---- Clients ----

const act = (name: Exclude<ClientStep, { text: string }>["do"]): ClientStep => ({ do: name });
const type = (text: string): ClientStep => ({ do: "type", text });
const hear = (text: string): ClientStep => ({ do: "hear", text });
/** Sends back what was heard, or `text`. */
const reply = (text = ""): ClientStep => ({ do: "reply", text });
const show = (text: string): ClientStep => ({ do: "show", text });
/** Types a sentence, echoes it when it comes, and waits until its last word is printed. */
const converse = (
  text: string,
): ClientStep[] => [type(text), hear(text), reply(), show(text.split(" ").at(-1)!)];

const TYPED = ["sends what is typed"];
const ECHOED = ["prints the echo"];

/** Of a client, whichever transport carries its sentences. */
const CLIENT_CHECKS: Check<ClientStep>[] = [
  check("1", "sends what is typed", [
    type("Hello {1}"),
    hear("Hello {1}"),
    reply(),
    act("silence"),
  ]),
  check("1", "sends other letters", [type(LETTERS), hear(LETTERS)], {
    usual: "changesSentence",
    needs: TYPED,
  }),
  check("1", "sends 200 letters", [type("{1#200}"), hear("{1#200}")], {
    usual: "sendsPart",
    needs: TYPED,
  }),
  check("1", "sends blanks inside", [type("Hello   {1}  {2}"), hear("Hello   {1}  {2}")], {
    usual: "sentenceBlanks",
    needs: TYPED,
  }),
  check("2", "prints the echo", converse("Hello {1}"), { needs: TYPED }),
  check("2", "prints what came back", [type("Hello {1}"), hear("Hello {1}"), {
    do: "answerOther",
    text: "Hello {2}",
  }], { usual: "showsInput", needs: ECHOED }),
  check(
    "3",
    "many sentences",
    repeat(SENTENCES, (i) => converse(`${i} {${i % 9 + 1}#${5 + i % 3}}${i}`)),
    {
      usual: "oneSentence",
      needs: ECHOED,
    },
  ),
  check("3", "two typed at once", [
    type("1 {1}\n2 {2}"),
    { do: "hear", text: "1 {1}", then: "2 {2}" },
    show("{1}"),
    show("{2}"),
  ], { usual: "losesSecond", needs: TALK }),
  check("3", "stop word", [
    ...converse("Hello {1}"),
    type("{stop}"),
    { do: "hearOrEnd", text: "{stop}" },
    act("replyAll"),
    act("mayEnd"),
    act("hangUp"),
    act("exit"),
  ], { usual: "staysAfterStop", stop: "any", needs: TALK }),
  check("2+", "prints the echo as text", [type("Hello {1}"), hear("Hello {1}"), reply(), {
    do: "showText",
    text: "{1}",
  }], { needs: ECHOED }),
  check("3+", "stop word inside", [
    ...INSIDE.flatMap((text) => converse(text)),
    ...converse("Hello {1}"),
  ], {
    usual: "leavesAtWordInside",
    stop: "each",
    needs: TALK,
  }),
  check("3+", "an empty sentence", [
    ...converse("Hello {1}"),
    type("\nHello {2}"),
    act("replyBlanks"),
    hear("Hello {2}"),
    reply(),
    show("{2}"),
  ], { usual: "hangsOnEmpty", needs: ["two typed at once"] }),
  check("3+", "end of input", [
    ...converse("Hello {1}"),
    act("endInput"),
    act("awaitDrain"),
    act("exit"),
  ], { usual: "staysAtEnd", needs: TALK }),
];

const TCP_CLIENT_CHECKS: Check<ClientStep>[] = [
  ...CLIENT_CHECKS,
  check("1+", "no server", [type("Hello {1}"), act("giveUp"), act("exit"), act("word")], {
    usual: "ignoresRefusal",
    needs: TYPED,
    isDead: true,
  }),
  check("2+", "an echo in two pieces", [
    type("{1} {2}"),
    hear("{1} {2}"),
    reply("{1}"),
    { do: "mayShow", text: "{1}" },
    reply(" {2}{lf}"),
    { do: "showAgain", text: "{2}", decoy: "{1}" },
  ], { usual: "readsEchoOnce", needs: ECHOED }),
  check("3+", "the server's end", [
    ...converse("Hello {1}"),
    act("hangUp"),
    type("Still there {2}"),
    act("exit"),
    act("word"),
  ], { usual: "ignoresServerEnd", needs: TALK }),
];

const UDP_CLIENT_CHECKS: Check<ClientStep>[] = [
  ...CLIENT_CHECKS,
  check("2+", "1,400 bytes", converse("{1#1393} {2}"), {
    usual: "cutsDatagram",
    needs: ECHOED,
  }),
  check("2+", "a lost echo", [type("Hello {1}"), hear("Hello {1}"), act("loss")], {
    usual: "noTimeout",
    needs: ECHOED,
  }),
  check("3+", "a stranger's reply", [
    ...converse("Hello {1}"),
    type("Hello {2}"),
    hear("Hello {2}"),
    { do: "stranger", text: "Hello {3}" },
    reply(),
    { do: "showAgain", text: "{2}", decoy: "{3}" },
  ], { usual: "believesStranger", needs: TALK }),
  check("3+", "a late copy", [
    type("1 {1}"),
    hear("1 {1}"),
    reply(),
    reply(),
    show("{1}"),
    type("2 {2}"),
    hear("2 {2}"),
    reply(),
    { do: "showAgain", text: "{2}", decoy: "{1}" },
  ], { usual: "believesDuplicate", needs: TALK }),
];

/** The checks of one kind of program as it is graded, in the order in which they are tried. */
export function checksOf(kind: Kind, { task = 3, address }: Partial<GradeOptions>): Check[] {
  const isOne = task === 1;
  const table: Check[] = kind === "tcp-client"
    ? TCP_CLIENT_CHECKS
    : kind === "udp-client"
    ? UDP_CLIENT_CHECKS
    : kind === "tcp-server"
    ? (isOne ? TCP_PRINT_CHECKS : TCP_SERVER_CHECKS)
    : (isOne ? PRINT_CHECKS : UDP_SERVER_CHECKS);
  const needsOutput = ({ steps }: Check): boolean => steps.some((step) => step.do === "print");
  const asked = table.filter((check) =>
    Number(check.step[0]) <= task && !(address && needsOutput(check))
  );
  const rank = ({ step, deadly }: Check): number =>
    (step.endsWith("+") ? 100 : 0) + (deadly ?? 0) * 10 + Number(step[0]);
  return asked.toSorted((a, b) => rank(a) - rank(b)); // stable: the rest is the table's order
}
