/**
 * Bytes and text: how they are compared, shown, and cleaned of what a terminal would not show.
 *
 * @module
 */

import { Buffer } from "node:buffer";

const SHOWN_CHARS = 40; // of what was sent or came
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

export function encode(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text);
}

export function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

export function concat(chunks: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(chunks));
}

export function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** At which byte `a` and `b` differ first. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return length;
}

/** Bytes as Python would write them: `"Gr\xc3\xbc\xc3\x9fe\n"`; of long ones the start, and how many. */
export function show(data: string | Uint8Array): string {
  const bytes = typeof data === "string" ? encode(data) : data;
  const names: Record<number, string> = { 9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\" };
  let text = "";
  for (const byte of bytes) {
    if (text.length > SHOWN_CHARS) return `"${text}…" (${bytes.length.toLocaleString("en")} bytes)`;
    const hex = `\\x${byte.toString(16).padStart(2, "0")}`;
    text += names[byte] ?? (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : hex);
  }
  return `"${text}"`;
}

/** What moves, colours or asks a terminal: CSI, OSC and two-character sequences, behind their ESC. */
const ESCAPES = /^(?:\[[0-?]*[ -/]*[@-~]|\][^\n]*?(?:\p{Cc}|$)|[()][A-Z0-9]|[=>78cDEHM\\])/u;

/** What a terminal shows of `output`: no colours, no carriage returns at line ends. */
export function plain(output: string): string {
  const [text, ...escaped] = output.split("\x1b");
  const rest = escaped.map((each) => each.replace(ESCAPES, ""));
  return [text, ...rest].join("").replaceAll("\r\n", "\n");
}

/** `b'…'` as Python prints it, Rust or Ruby too. */
const BYTES_LITERAL = /\bb(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")/g;

/** `output` without what is printed as bytes, `b'…'`. */
export function withoutBytes(output: string): string {
  return output.replace(BYTES_LITERAL, "");
}

/** Whether there is more in a text than a prompt such as `> `. */
export function hasWords(text: string): boolean {
  return /\p{L}{2}/u.test(text);
}

/** Six letters that no program prints by itself: it holds none of the stop words. */
export function randomWord(): string {
  const [consonants, vowels] = ["bdfgklmnprvz", "aiou"];
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return [...bytes].map((byte, i) => {
    const letters = i % 2 === 0 ? consonants : vowels;
    return letters[byte % letters.length]!;
  }).join("");
}

const ERROR =
  /(?:^|[\s(:])(?:[\w.]*(?:Error|Exception|Panic)|AddrInUse|AddrNotAvailable|ConnectionReset|BrokenPipe|ConnectionRefused|NotCapable)\b|^\s*(?:error|fatal|panic)\b|Segmentation fault|already in use|[Cc]annot open|Can't locate/;
const SAID_CHARS = 240;

/** What a program says of its error: the error's own line, not the last of the stack below it. */
export function errorLine(output: string): string {
  const lines = plain(output).split("\n").map((line) => line.trim()).filter(Boolean);
  const isStack = (line: string): boolean => /^(at |File "|[~^]+$|Emitted )/.test(line);
  const line = lines.findLast((line) => ERROR.test(line) && !isStack(line)) ??
    lines.slice(-2).join(" / ");
  return line.length > SAID_CHARS ? `${line.slice(0, SAID_CHARS)}…` : line;
}

/** Whether a program says that something failed. */
export function saysError(output: string): boolean {
  return ERROR.test(errorLine(output));
}
