/**
 * The exported checks detect every flaw of a source: each flaw below fails at least one check, and a correct source
 * passes all.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type CoherentAllocator,
  type CoherentMemory,
  type CoherentRequest,
  DmaArgumentError,
  DmaMappingError,
} from 'dmapool';
import { conformanceChecks } from 'dmapool/conformance';

/** The flaws. */
type Flaw =
  | 'none'
  | 'no name'
  | 'odd page size'
  | 'not naturally aligned'
  | 'ignores the mask'
  | 'not zeroed'
  | 'throws when exhausted'
  | 'loses freed memory'
  | 'overlaps'
  | 'frees twice'
  | 'frees a look-alike'
  | 'takes any size'
  | 'loses memory at a wrong size'
  | 'wakes twice'
  | 'wakes too early';

const BASE = 0x8000_0000;
const BYTES = 4 * 2 ** 20;
const PAGE = 4096;

/** A plain source with one flaw. */
class FlawedMemory implements CoherentAllocator {
  readonly name: string;
  readonly pageSize: number;
  readonly #flaw: Flaw;
  readonly #buffer = new SharedArrayBuffer(BYTES);
  readonly #used = new Uint8Array(BYTES / PAGE);
  readonly #live = new Set<CoherentMemory>();
  #waiting: (() => void)[] = [];

  constructor(flaw: Flaw) {
    this.#flaw = flaw;
    this.name = flaw === 'no name' ? '' : 'flawed';
    this.pageSize = flaw === 'odd page size' ? 5000 : PAGE;
  }

  allocCoherent({ device, size }: CoherentRequest): CoherentMemory | null {
    const flaw = this.#flaw;
    if (flaw !== 'takes any size' && (!Number.isInteger(size) || size < 1 || size > 2 ** 31 - 1)) {
      if (flaw === 'loses memory at a wrong size') this.#used.fill(1);
      throw new DmaArgumentError('size', size, 'a whole number from 1 to 2^31-1');
    }
    const pages = Math.ceil(size / PAGE);
    const step = flaw === 'not naturally aligned' ? 1 : 2 ** Math.ceil(Math.log2(pages));
    for (let page = 0; page + pages <= this.#used.length; page += step) {
      const byteOffset = page * PAGE;
      const dma = BASE + byteOffset;
      if (flaw !== 'ignores the mask' && dma + size - 1 > device.dmaMask) return null;
      if (this.#used.subarray(page, page + pages).includes(1)) continue;
      this.#used.fill(1, page, flaw === 'overlaps' ? page + 1 : page + pages);
      if (flaw !== 'not zeroed') new Uint8Array(this.#buffer, byteOffset, pages * PAGE).fill(0);
      const memory = { dma, size, buffer: this.#buffer, byteOffset };
      this.#live.add(memory);
      return memory;
    }
    if (flaw === 'throws when exhausted') throw new Error('exhausted');
    return null;
  }

  freeCoherent(memory: CoherentMemory): void {
    const flaw = this.#flaw;
    const live =
      flaw === 'frees a look-alike' ? [...this.#live].some(({ dma }) => dma === memory.dma) : this.#live.delete(memory);
    if (!live && flaw !== 'frees twice') {
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', 'this is no memory of this source');
    }
    const waiting = this.#waiting;
    if (flaw !== 'wakes twice') this.#waiting = [];
    if (flaw === 'wakes too early') this.#wake(waiting);
    const page = memory.byteOffset / PAGE;
    const pages = Math.ceil(memory.size / PAGE);
    if (flaw !== 'loses freed memory') this.#used.fill(0, page, page + pages);
    if (flaw !== 'wakes too early') this.#wake(waiting);
  }

  #wake(waiting: readonly (() => void)[]): void {
    for (const listener of waiting) {
      try {
        listener();
      } catch {
        // The flaw of one source must not affect the others.
      }
    }
  }

  onceAvailable(listener: () => void): () => void {
    this.#waiting.push(listener);
    return () => {
      this.#waiting = this.#waiting.filter((each) => each !== listener);
    };
  }
}

/** Names of the failed checks, with their messages. */
async function broken(flaw: Flaw): Promise<string[]> {
  const found: string[] = [];
  let open = 0;
  const factory = {
    create: () => (open++, new FlawedMemory(flaw)),
    close: () => {
      open--;
    },
  };
  for (const { name, run } of conformanceChecks(factory)) {
    try {
      await run();
    } catch (error) {
      found.push(`${name}: ${String(error)}`);
    }
  }
  assert.equal(open, 0, 'each source is closed, also when its check fails');
  return found;
}

test('a correct source passes every check', async () => {
  assert.deepEqual(await broken('none'), []);
});

const flaws: [Flaw, RegExp][] = [
  ['no name', /has a name and a page size/],
  ['odd page size', /has a name and a page size/],
  ['not naturally aligned', /naturally aligned/],
  ['ignores the mask', /stays below the DMA mask/],
  ['not zeroed', /returns zeroed memory/],
  ['throws when exhausted', /returns null when exhausted/],
  ['loses freed memory', /returns null when exhausted/],
  ['overlaps', /no byte and no address twice/],
  ['frees twice', /refuses a second free/],
  ['frees a look-alike', /refuses to free memory of another source/],
  ['takes any size', /refuses invalid arguments/],
  ['loses memory at a wrong size', /refuses invalid arguments/],
  ['wakes twice', /calls onceAvailable listeners once/],
  ['wakes too early', /calls onceAvailable listeners once/],
];

for (const [flaw, expected] of flaws) {
  test(`a flawed source fails a check: ${flaw}`, async () => {
    const found = await broken(flaw);
    assert.ok(
      found.some((line) => expected.test(line)),
      `found: ${found.join('; ')}`,
    );
  });
}
