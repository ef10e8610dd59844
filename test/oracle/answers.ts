/** Answers to operations: hashed, or spelt out. `module/main.c` makes the same of the kernel's. */

/** Takes the words and bytes of answers. */
export interface Answers {
  word(word: number): void;
  bytes(bytes: Uint8Array): void;
}

/** A hash of all answers so far. */
export class HashedAnswers implements Answers {
  #hash = 0;

  word(word: number): void {
    const hash = this.#hash;
    this.#hash = Math.imul(((hash << 5) | (hash >>> 27)) ^ word, 0x9e3779b1);
  }

  bytes(bytes: Uint8Array): void {
    this.word(bytes.length);
    for (const byte of bytes) this.word(byte);
  }

  /** Eight hexadecimal digits. */
  toString(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }
}

/** The answer to one operation, as the module's line has it. */
export class SpeltAnswer implements Answers {
  #text = '';

  word(word: number): void {
    this.#text += `${(word >>> 0).toString(16)} `;
  }

  bytes(bytes: Uint8Array): void {
    this.#text += `${Buffer.from(bytes).toString('hex') || '-'} `;
  }

  toString(): string {
    return this.#text.trimEnd();
  }
}

/** An answer for people: long runs of hexadecimal digits are texts. */
export function describeAnswer(answer: string): string {
  const parts = answer.split(' ').map((part) => {
    if (part === 'ffffffff') return 'refused';
    return part.length > 8 ? JSON.stringify(Buffer.from(part, 'hex').toString()) : part;
  });
  return parts.join(' ');
}
