/** The encoding of answers to operations, as a hash or as text. `module/main.c` has the same encoding. */

/** Receives the words and bytes of answers. */
export interface Answers {
  word(word: number): void;
  bytes(bytes: Uint8Array): void;
}

/** Hashes all answers that it receives. */
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

  /** The hash of the answers so far, as 8 hexadecimal digits. */
  toString(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }
}

/** The answer to one operation as text, as in the module's line. */
export class TextAnswer implements Answers {
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

/** Formats an answer for messages: a part of more than 8 digits is a text. */
export function describeAnswer(answer: string): string {
  const parts = answer.split(' ').map((part) => {
    if (part === 'ffffffff') return 'refused';
    return part.length > 8 ? JSON.stringify(Buffer.from(part, 'hex').toString()) : part;
  });
  return parts.join(' ');
}
