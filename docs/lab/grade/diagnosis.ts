/**
 * From what was seen to what is wrong: a pure function. What was seen decides; only where it leaves
 * a choice, the check's own guess does, and then the diagnosis says that it is one.
 *
 * @module
 */

import type { Mistake } from "./mistakes.ts";
import { concat, decode, encode, firstDifference, isSame, show, withoutBytes } from "./text.ts";

/** What a step waited for, in vain. */
export type Wants =
  | "connection" // to the server
  | "echo" // of what was sent to the server
  | "silence" // nothing (more) from it
  | "end" // of the connection, from the server
  | "output" // a sentence, printed by a server
  | "sentence" // what was typed, from a client
  | "shown" // an echo, printed by a client
  | "exit" // of a client
  | "word"; // about the end, from a client

/** What was seen of a step that failed. */
export type Evidence = {
  side: "server" | "client";
  isUdp: boolean;
  wants: Wants;
  /** The mistake that a check suggests: its guess. */
  usual?: Mistake | undefined;
  /** What should have come, or been printed, and what did. */
  expected: Uint8Array;
  came: Uint8Array;
  ended: "" | "eof" | "reset";
  /** How long nothing came; not longer, as the program then waited, too, without a time limit. */
  waitedMs?: number;
  isWaiting?: boolean;
  /** What this peer, and other ones, said before. */
  earlier?: Uint8Array[];
  others?: Uint8Array[];
  /** Nobody is bound to the port; what is known of it. */
  unbound?: string | undefined;
  /** The program ended. */
  exit?: { code: number; words: string } | undefined;
  /** What it says of an error, while it goes on. */
  said?: string | undefined;
  /** A reply came from another port, or went to another client. */
  stray?: "from another port" | "to an earlier client" | undefined;
  /** The echo came as soon as a silent client had left. */
  isFreed?: boolean;
  /** Where a client sent it: on another connection than before. */
  isReconnected?: boolean;
  /** What a client shows if it has the mistake that the check is about. */
  decoy?: string | undefined;
};

/** What is wrong, and how that is known. */
export type Diagnosis = { mistake: Mistake; guess: boolean; cause: string };

/** What was seen, by kind. */
type Seen = {
  cause: string;
  /** The mistake, unless the check's own is among those that this proves or allows. */
  mistake: Mistake;
  proves?: readonly Mistake[];
  allows?: readonly Mistake[];
};

const MANY_BYTES = 65_536; // more than one write of a program

/** A program that ended at such a check shows the check's mistake by that. */
const SHOWN_BY_END: readonly Mistake[] = [
  "oneClientEver",
  "stopEndsServer",
  "readsOnce",
  "emptyDatagram",
  "emptyLineEnds",
  "findsStopInside",
  "diesOfReset",
  "diesOfLeaver",
  "oneSentence",
  "leavesAtWordInside",
  "closesEarly",
  "printsPart",
];
/** Where it ended with an error, the check must be about what it may have stumbled over. */
const SHOWN_BY_ERROR: readonly Mistake[] = [
  "emptyDatagram",
  "emptyLineEnds",
  "findsStopInside",
  "diesOfReset",
  "diesOfLeaver",
  "leavesAtWordInside",
];
/** A connection that closes at such a check does so, too. */
const SHOWN_BY_CLOSE: readonly Mistake[] = [
  "emptyLineEnds",
  "findsStopInside",
  "closesEarly",
  "readsOnce",
  "cutsAtEnd",
];
/** So does silence, at such a check. */
const SHOWN_BY_SILENCE: readonly Mistake[] = ["noTimeout"];
/** What is consistent with nothing that comes, without being shown by it. */
const NOT_SHOWN_BY_NOTHING: readonly Mistake[] = ["cutsDatagram", "cutsEcho", "oneLineARead"];
const OF_A_PREFIX: readonly Mistake[] = ["cutsAtEnd", "losesMuch", "readsOnce", "waitsForLine"];

/** Words of an error that say what is wrong. */
const ERROR_WORDS: [RegExp, Mistake][] = [
  [/Unicode\w*Error: 'ascii'/, "decodesAscii"],
  [/UnicodeDecodeError|invalid utf-?8|MalformedInput/i, "decodesBytes"],
  [/already in use|EADDRINUSE|AddrInUse/i, "portInUse"],
  [/Connection ?reset|ECONNRESET|Broken ?pipe|EPIPE/i, "diesOfReset"],
];

/** What is wrong, by what was seen. */
export function diagnose(evidence: Evidence): Diagnosis {
  const isLater = evidence.usual === "readsOnce" && (evidence.earlier?.length ?? 0) > 1;
  const usual = isLater ? "closesEarly" : evidence.usual; // it read more than once
  const { cause, mistake, proves = [], allows = [] } = look({ ...evidence, usual });
  if (usual && proves.includes(usual)) return { mistake: usual, guess: false, cause };
  if (usual && allows.includes(usual)) return { mistake: usual, guess: usual !== mistake, cause };
  return { mistake, guess: false, cause };
}

/** The first kind of evidence that there is, the strongest first. */
function look(evidence: Evidence): Seen {
  return seeNobody(evidence) ?? seeEnd(evidence) ?? seeMissing(evidence) ?? seeMore(evidence) ??
    seeOther(evidence) ?? seePrefix(evidence) ?? seeChange(evidence) ?? seeNothing(evidence);
}

function seeNobody({ unbound, exit, usual }: Evidence): Seen | undefined {
  if (unbound === undefined) return undefined;
  if (exit) return ofExit(exit, { mistake: exit.code === 0 ? "unreachable" : "crashes", usual });
  return { cause: unbound, mistake: "unreachable" };
}

/** An end explains only what is missing: not letters that differ. */
function seeEnd(evidence: Evidence): Seen | undefined {
  const { exit, came, expected, side, wants, usual, decoy } = evidence;
  const isMissing = came.length < expected.length && isStart(came, expected);
  if (!exit || wants === "silence" || wants === "end" || wants === "exit") return undefined;
  if (wants === "word") return undefined;
  const isShownPart = wants === "output" || wants === "shown";
  if (!isShownPart && !isMissing) return undefined;
  if (isShownPart && saysPart({ came, expected })) return undefined;
  if (decoy && decode(came).includes(decoy)) return undefined;
  if (exit.code === 0 && isMissing && came.length > 0) return undefined; // a part says more
  const mistake = side === "client" ? "endsUnasked" : exit.code === 0 ? "endedBefore" : "crashes";
  return ofExit(exit, { mistake, usual });
}

function ofExit(
  { code, words }: { code: number; words: string },
  { mistake, usual }: { mistake: Mistake; usual: Mistake | undefined },
): Seen {
  const cause = `it ended with code ${code}${words && `: ${words}`}`;
  const named = namedBy(words);
  const proves = code === 0 ? SHOWN_BY_END : SHOWN_BY_ERROR;
  const isKnown = code !== 0 && named !== undefined && mistake !== "endsUnasked";
  if (isKnown && !(usual && proves.includes(usual))) return { cause, mistake: named };
  return { cause, mistake, proves, allows: ["decodesAscii", "decodesBytes"] };
}

function namedBy(words: string): Mistake | undefined {
  return ERROR_WORDS.find(([pattern]) => pattern.test(words))?.[1];
}

/** What is to be seen without a comparison of bytes. */
function seeMissing(evidence: Evidence): Seen | undefined {
  const { wants, usual, came, expected, decoy, side, isUdp, earlier = [] } = evidence;
  const output = decode(came);
  const inSeconds = inTime(evidence);
  const own = (mistake: Mistake): Mistake => usual ?? mistake;
  switch (wants) {
    case "end":
      return { cause: `the connection did not end ${inSeconds}`, mistake: own("ignoresEnd") };
    case "exit":
      return { cause: `the program did not end ${inSeconds}`, mistake: own("staysAfterStop") };
    case "word":
      return { cause: "it ended with code 0 and no word", mistake: own("endsWithoutWord") };
    case "silence":
      if (side === "client") return undefined;
      if (isUdp && earlier.some((text) => isSame(text, came))) {
        return { cause: `${show(came)} came once more`, mistake: "repliesTwice" };
      }
      return { cause: `${show(came)} came unasked`, mistake: own("addsToEcho") };
    case "output":
    case "shown":
      return seeOutput({
        output,
        text: decode(expected),
        usual,
        decoy,
        isServer: side === "server",
      });
    default:
      return undefined;
  }
}

/** A program did not print what it should have. */
function seeOutput(
  { output, text, usual, decoy, isServer }: {
    output: string;
    text: string;
    usual: Mistake | undefined;
    decoy: string | undefined;
    isServer: boolean;
  },
): Seen {
  const cause = output.trim() === "" ? "nothing was printed" : `it printed ${show(output)}`;
  const word = text.trim().split(" ").at(-1)!;
  if (output.includes(word) && !withoutBytes(output).includes(word)) {
    return { cause, mistake: isServer ? "printsBytes" : "showsBytes" };
  }
  if (decoy && output.includes(decoy) && usual) return { cause, mistake: usual };
  if (!isServer) {
    const mistake = usual ?? "showsNoEcho";
    return { cause, mistake: "showsNoEcho", allows: [mistake] };
  }
  const start = text.trim().split(" ")[0]!;
  if (/\bb['"]/.test(output)) return { cause, mistake: "printsBytes" };
  if (!output.includes(start)) {
    const proves: Mistake[] = output.trim() === "" ? [] : ["printsPart"];
    return { cause, mistake: "printsNothing", proves, allows: ["oneClientEver"] };
  }
  return { cause, mistake: "printsOther", proves: ["printsPart", "changesBlanks"] };
}

function seeMore(evidence: Evidence): Seen | undefined {
  const { came, expected, side, isUdp, usual, wants, isReconnected } = evidence;
  if (isReconnected) return { cause: "it came on another connection", mistake: "reconnects" };
  const old = seeOldBytes(evidence);
  if (old) return old;
  const [got, text] = [decode(came), decode(expected).trimEnd()];
  if (/\bb['"]/.test(got) && !/\bb['"]/.test(text)) {
    return { cause: `${show(came)} came`, mistake: "sendsBytesAsText" };
  }
  if (came.length <= expected.length && wants !== "silence") return undefined;
  const isAgain = text !== "" && got.split(text).length > 2;
  const [more, at] = [came.length - expected.length, got.indexOf(text)];
  if (at < 0 || text === "") return undefined;
  const place = at === 0 ? "behind it" : got.trimEnd().endsWith(text) ? "before it" : "around it";
  const cause = isAgain ? "it came more than once" : `${more} bytes more came, ${place}`;
  if (side === "client") return { cause, mistake: isAgain ? "sendsTwice" : "addsToSentence" };
  if (isAgain && isUdp) return { cause, mistake: "repliesTwice" };
  return { cause, mistake: "addsToEcho", proves: usual === "keepsOldBytes" ? [usual] : [] };
}

/** Something that was said elsewhere. */
function seeOther(evidence: Evidence): Seen | undefined {
  const { came, expected, earlier = [], others = [], stray, isUdp, isFreed } = evidence;
  if (isFreed) {
    return { cause: "the echo came when the silent client had left", mistake: "oneAtATime" };
  }
  if (stray === "to an earlier client") {
    return { cause: "the reply went to an earlier client", mistake: "onePeer" };
  }
  if (stray) return { cause: `a reply came ${stray}`, mistake: "otherSocket" };
  if (came.length === 0) return undefined;
  const isIn = (texts: Uint8Array[]): boolean =>
    texts.some((text) =>
      text.length > 0 && !isSame(text, expected) && (isSame(text, came) || isSameText(text, came))
    );
  if (isIn(earlier)) {
    const mistake = isUdp ? "repliesTwice" : "repeatsEarlier";
    return { cause: `an earlier sentence came: ${show(came)}`, mistake, allows: ["mixesClients"] };
  }
  if (!isIn(others)) return undefined;
  return { cause: `another client's sentence came: ${show(came)}`, mistake: "mixesClients" };
}

/** A short sentence with the rest of a longer one behind it. */
function seeOldBytes({ came, expected, earlier = [] }: Evidence): Seen | undefined {
  const end = came.subarray(firstDifference(came, expected));
  const isOld = end.length > 2 &&
    earlier.some((text) => decode(text).includes(decode(end).trimEnd()));
  if (!isOld || !isStart(encode(decode(expected).trimEnd()), came)) return undefined;
  return { cause: "behind it came the rest of an earlier sentence", mistake: "keepsOldBytes" };
}

function seePrefix({ came, expected, isUdp, side, ended, wants }: Evidence): Seen | undefined {
  if (came.length === 0 || came.length >= expected.length || !isStart(came, expected)) return;
  if (wants === "silence") return undefined;
  const rest = decode(expected.subarray(came.length));
  const end = ended && `, then the ${ended === "eof" ? "end" : "reset"}`;
  const cause = `${count(came)} of ${count(expected)} bytes came${end}`;
  if (side === "client") return { cause, mistake: "sendsPart" };
  if (rest.trim() === "" && /^\r?\n$/.test(rest)) return { cause, mistake: "cutsLineEnd" };
  if (isUdp) return { cause, mistake: "cutsDatagram" };
  const isLines = decode(came).endsWith("\n");
  if (isLines && !ended) return { cause, mistake: "oneLineARead", allows: OF_A_PREFIX };
  return { cause, mistake: "cutsEcho", allows: [...OF_A_PREFIX, "oneLineARead", "decodesBytes"] };
}

function count(bytes: Uint8Array): string {
  return bytes.length.toLocaleString("en");
}

/** Other bytes than were sent: how they differ. */
function seeChange({ came, expected, side, usual }: Evidence): Seen | undefined {
  if (came.length === 0) return undefined;
  const [got, text] = [decode(came), decode(expected)];
  const at = firstDifference(came, expected);
  const cause = (how: string): string => `${how}, from byte ${at + 1} on`;
  const isClient = side === "client";
  const noBlanks = (value: string): string => value.replace(/[ \t]+/g, "");
  if (got.toLowerCase() === text.toLowerCase()) {
    return {
      cause: cause("upper and lower case differ"),
      mistake: isClient ? "changesSentence" : "changesCase",
    };
  }
  if (isSameText(came, expected)) {
    return {
      cause: cause("the line end differs"),
      mistake: isClient ? "addsToSentence" : lineEnds(got, text),
    };
  }
  if (noBlanks(got).trim() === noBlanks(text).trim()) {
    return {
      cause: cause("blanks differ"),
      mistake: isClient ? "sentenceBlanks" : "changesBlanks",
    };
  }
  if (isClient) return { cause: cause("letters differ"), mistake: "changesSentence" };
  if (came.length < expected.length && expected.length > MANY_BYTES) {
    const missing = `${count(came)} of ${count(expected)} bytes came: some are missing`;
    return { cause: cause(missing), mistake: "cutsEcho", proves: ["losesMuch"] };
  }
  const isReplaced = /[\ufffd?]/.test(got) && !/[\ufffd]/.test(text);
  const proves: Mistake[] = usual === "decodesBytes" || isReplaced
    ? ["decodesBytes", "decodesAscii"]
    : [];
  return { cause: cause("letters differ"), mistake: "changesEcho", proves };
}

function lineEnds(got: string, text: string): Mistake {
  return got.trimEnd() === got
    ? "cutsLineEnd"
    : text.includes("\r")
    ? "changesLineEnds"
    : "changesEcho";
}

function seeNothing(evidence: Evidence): Seen {
  const { side, isUdp, ended, said, usual, wants } = evidence;
  if (wants === "connection" && said) {
    return { cause: said, mistake: "endedBefore", proves: SHOWN_BY_END };
  }
  const words = said ? `; it says: ${said}` : "";
  const isServer = side === "server";
  const isClosed = isServer && ended !== "";
  const how = ended === "reset" ? "a reset" : "the end";
  const cause =
    (isClosed ? `${how} came in place of an echo` : `nothing came ${inTime(evidence)}`) + words;
  const named = said && namedBy(said);
  if (isServer && named) return { cause, mistake: named, proves: SHOWN_BY_END };
  const allows = usual && !NOT_SHOWN_BY_NOTHING.includes(usual) ? [usual] : [];
  if (!isServer) {
    const mistake = wants === "sentence" ? "sendsNothing" : "showsNoEcho";
    return { cause, mistake, proves: SHOWN_BY_SILENCE, allows };
  }
  if (isClosed) return { cause, mistake: "closesUnanswered", proves: SHOWN_BY_CLOSE, allows };
  return { cause, mistake: isUdp ? "noReply" : "noEcho", allows };
}

function inTime({ waitedMs = 0, isWaiting }: Evidence): string {
  const seconds = `in ${Math.round(waitedMs / 100) / 10} s`;
  return isWaiting ? `${seconds}, and it waits itself` : seconds;
}

/** Whether `start` is how `all` begins. */
function isStart(start: Uint8Array, all: Uint8Array): boolean {
  return start.length <= all.length && isSame(start, all.subarray(0, start.length));
}

/** Whether two are the same but for what ends their lines. */
function isSameText(a: Uint8Array, b: Uint8Array): boolean {
  const lines = (bytes: Uint8Array): string => decode(bytes).replaceAll("\r\n", "\n").trimEnd();
  return lines(a) === lines(b);
}

/** Whether a part of what should have been printed was. */
function saysPart({ came, expected }: { came: Uint8Array; expected: Uint8Array }): boolean {
  const word = decode(expected).trim().split(" ").at(-1)!;
  return decode(concat([came])).includes(word);
}
