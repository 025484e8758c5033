/**
 * Whether a program can print a message: read from the strings in its source. A message that a
 * document quotes is put together again from them, as the program would do it.
 *
 * @module
 */

/** A string of a source: its literal pieces; between two of them stands what is filled in. */
export type Template = string[];

/** The strings and templates of a TypeScript or Python source, those in templates as well. */
export function templatesIn(source: string, language: "ts" | "py" = "ts"): Template[] {
  return language === "ts" ? new TypeScriptStrings(source).read() : pythonStrings(source);
}

/** Walks through a TypeScript source as far as strings need it. */
class TypeScriptStrings {
  readonly #source: string;
  readonly #found: Template[] = [];
  #at = 0;

  constructor(source: string) {
    this.#source = source;
  }

  /** All of them; those joined by `+` are one. */
  read(): Template[] {
    this.#code("");
    return this.#found;
  }

  /** Reads code, to the end or to the brace that closes it. */
  #code(end: "" | "}"): void {
    let depth = 0;
    let joins = false; // the last thing was a string and a plus
    let before = ""; // the last sign that is no blank
    while (this.#at < this.#source.length) {
      const rest = this.#source.slice(this.#at, this.#at + 2);
      const sign = rest[0]!;
      if (rest === "//") this.#skip(/.*/y);
      else if (rest === "/*") this.#skip(/\/\*[^]*?\*\//y);
      else if (`"'\``.includes(sign)) {
        const template = sign === "`" ? this.#template() : [this.#string(sign)];
        const last = this.#found.at(-1);
        if (joins && last) last.push(last.pop()! + template[0]!, ...template.slice(1));
        else this.#found.push(template);
        joins = this.#skip(/\s*\+\s*(?=["'`])/y) !== "";
        before = `"`;
      } else if (sign === "/" && /[(,=:[!&|?{};>]|^$/.test(before)) {
        this.#skip(/\/(?:\\.|\[(?:\\.|[^\]])*\]|[^/\n])*\//y);
        before = "/";
      } else {
        if (sign === "{") depth++;
        if (sign === "}" && depth-- === 0 && end) return;
        if (sign.trim()) before = /return$/.test(this.#source.slice(0, this.#at + 1)) ? "" : sign;
        this.#at++;
      }
    }
  }

  /** Goes behind what matches here, and returns it. */
  #skip(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const [match = ""] = pattern.exec(this.#source) ?? [];
    this.#at += match.length || (pattern.source.startsWith("\\s") ? 0 : 1);
    return match;
  }

  #string(quote: string): string {
    let text = "";
    for (this.#at++; this.#source[this.#at] !== quote; text += this.#character());
    this.#at++;
    return text;
  }

  #template(): Template {
    const pieces = [""];
    for (this.#at++; this.#source[this.#at] !== "`";) {
      if (this.#source.startsWith("${", this.#at)) {
        this.#at += 2;
        const place = this.#found.length;
        this.#code("}");
        this.#found.splice(place, 0); // those inside stay, before this one
        this.#at++;
        pieces.push("");
      } else pieces.push(pieces.pop()! + this.#character());
    }
    this.#at++;
    return pieces;
  }

  /** A character of a string, with its escape undone. */
  #character(): string {
    if (this.#source[this.#at] !== "\\") return this.#source[this.#at++]!;
    const [escape, code, sign] = /^\\(?:u\{?([0-9a-f]+)\}?|x[0-9a-f]{2}|([^]))/i
      .exec(this.#source.slice(this.#at, this.#at + 12))!;
    this.#at += escape.length;
    if (code) return String.fromCodePoint(parseInt(code, 16));
    return ({ n: "\n", t: "\t", r: "\r" } as Record<string, string>)[sign ?? ""] ?? sign ?? "";
  }
}

function pythonStrings(source: string): Template[] {
  const strings = /#.*|("""|'''|["'])((?:\\[^]|(?!\1)[^])*)\1/g;
  return [...source.matchAll(strings)].flatMap(([, quote, text]) =>
    quote ? [text!.replaceAll("\\n", "\n").split(/\{[^}]*\}/)] : []
  );
}

const WORD = /\p{L}{3,}/gu;
/** What is filled in: what is between quotes, addresses, options with a value, numbers. */
const DATA = /"[^"]*"|\[?[\da-f.:]*[.:][\da-f.:]+\]?(?::\d+)?|\b\d[\d,.]*/gi;

/**
 * Whether a program with these strings can print `message`, or a longer one of which it is a part.
 * Each word of it must lie in a literal piece that it holds whole (at its two ends also in a part of
 * one), or in what is filled in.
 */
export function isPrintable(message: string, templates: Template[]): boolean {
  const pieces = new Set(templates.flat().map((piece) => piece.trim()).filter(hasWord));
  const covered = new Uint8Array(message.length);
  const cover = (at: number, length: number): unknown => covered.fill(1, at, at + length);
  for (const { index, 0: data } of message.matchAll(DATA)) cover(index, data.length);
  for (const piece of pieces) {
    if (piece.includes(message)) return true;
    for (let at = -1; (at = message.indexOf(piece, at + 1)) >= 0;) {
      // A noun may be counted: "2 messages" of "message".
      const behind = /^s?(?![\p{L}\d])/u.exec(message.slice(at + piece.length));
      const isWord = !/[\p{L}\d]$/u.test(message.slice(0, at)) || /^\P{L}/u.test(piece);
      if (isWord && (behind || /\P{L}$/u.test(piece))) {
        cover(at, piece.length + (behind?.[0].length ?? 0));
      }
    }
    const head = overlap(piece, message); // the end of a piece is the beginning of the message
    if (hasWord(head)) cover(0, head.length);
    const tail = overlap(message, piece);
    if (hasWord(tail)) cover(message.length - tail.length, tail.length);
  }
  return [...message.matchAll(WORD)].every(({ index, 0: word }) =>
    covered.subarray(index, index + word.length).every(Boolean)
  );
}

function hasWord(text: string): boolean {
  return text.search(WORD) >= 0;
}

/** The longest end of `left` that is the beginning of `right`, cut at no word. */
function overlap(left: string, right: string): string {
  for (let size = Math.min(left.length, right.length); size > 0; size--) {
    const both = right.slice(0, size);
    if (!left.endsWith(both)) continue;
    const cutsLeft = /\p{L}$/u.test(left.slice(0, -size)) && /^\p{L}/u.test(both);
    const cutsRight = /\p{L}$/u.test(both) && /^\p{L}/u.test(right.slice(size));
    return cutsLeft || cutsRight ? "" : both;
  }
  return "";
}
