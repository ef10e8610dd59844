/** An oracle without a machine: hashes of the kernel, recorded in a file. */
import { readFileSync } from 'node:fs';
import type { Oracle } from './compare.ts';
import { CHUNK } from './operation.ts';

/** Number of recorded streams. Their seeds are 1, 2, ...; each has `STREAM_OPERATIONS` operations. */
export const RECORDED_STREAMS = 32;

/** Reads a file with lines `seed hash hash ...`. */
export class RecordedOracle implements Oracle {
  readonly #hashes = new Map<number, readonly string[]>();

  constructor(file: string | URL) {
    for (const line of readFileSync(file, 'utf8').split('\n')) {
      const [seed = '', ...hashes] = line.split(' ');
      if (/^\d+$/.test(seed)) this.#hashes.set(Number(seed), hashes);
    }
  }

  stream(seed: number, operations: number): Promise<string>[] {
    const hashes = this.#hashes.get(seed) ?? [];
    if (operations !== hashes.length * CHUNK) throw new RangeError(`no recorded stream ${seed} of ${operations}`);
    return hashes.map((hash) => Promise.resolve(hash));
  }
}
