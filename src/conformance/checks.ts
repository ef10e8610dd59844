/**
 * The contract of `CoherentAllocator` as executable checks for memory sources.
 *
 * A check is a named async function that throws when the source violates the contract. It depends on no test runner; an
 * adapter registers the checks with one.
 */

import { checkFunction, checkObject, reading } from '../arguments.ts';
import { describeThrown, DmaArgumentError } from '../errors.ts';
import { DmaMappingError } from '../memory/errors.ts';
import type { CoherentAllocator, CoherentMemory, DmaTarget } from '../memory/coherent.ts';

/** Creates the sources to check; see {@link conformanceChecks}. */
export interface SourceFactory {
  /**
   * Creates a new, unused source. It must have memory for 64-bit devices. Its capacity is at least 4 MiB, and small
   * enough to exhaust page by page: at most 64 MiB is sensible.
   */
  create(): CoherentAllocator | Promise<CoherentAllocator>;
  /** Called once with each created `source` after its check. */
  close?(source: CoherentAllocator): void | Promise<void>;
}

/** One clause of the contract and its check; from {@link conformanceChecks}. */
export interface ConformanceCheck {
  /** The clause, such as `returns zeroed memory, new and reused`: the name of a test. */
  readonly name: string;
  /** Checks the clause on sources of its own. Rejects with an error that describes the violation. */
  readonly run: () => Promise<void>;
}

const MASK_64: number = Number.MAX_SAFE_INTEGER;
const SIZES: readonly number[] = [1, 8, 4095, 4096, 4097, 8192, 12288, 16384, 20481, 65536, 147456, 200000];

interface Bench {
  readonly source: CoherentAllocator;
  /** Another source of the same kind. */
  readonly another: () => Promise<CoherentAllocator>;
}

/**
 * Returns the checks for the sources of a factory. Together they cover the contract of `CoherentAllocator`. Each check
 * creates its own sources, so checks may run alone or in any order.
 *
 * @param factory Creates and closes sources.
 * @returns The checks; each `run` rejects with an error that describes the violation.
 * @example
 * ```ts
 * for (const { name, run } of conformanceChecks({ create: () => new HeapMemory({ limit: 16 * 1024 * 1024 }) })) {
 *   await run(); // or: test(name, run), it(name, run), Deno.test(name, run)
 *   console.log(`ok: ${name}`);
 * }
 * ```
 */
export function conformanceChecks(factory: SourceFactory): readonly ConformanceCheck[] {
  const accepted = 'an object with a function create, and optionally one close';
  checkObject('factory', factory, accepted);
  reading('factory', factory, accepted, () => {
    const { create, close } = factory as { readonly [K in keyof SourceFactory]?: unknown };
    checkFunction('factory.create', create);
    if (close !== undefined) checkFunction('factory.close', close);
  });
  return Object.entries(CHECKS).map(([name, check]) => ({ name, run: () => withSource(factory, check) }));
}

async function withSource(factory: SourceFactory, check: (bench: Bench) => void | Promise<void>): Promise<void> {
  const made: CoherentAllocator[] = [];
  const create = async (): Promise<CoherentAllocator> => {
    const source = await factory.create();
    made.push(source);
    return source;
  };
  try {
    await check({ source: await create(), another: create });
  } finally {
    for (const source of made) await factory.close?.(source);
  }
}

const CHECKS: Record<string, (bench: Bench) => void | Promise<void>> = {
  'has a name and a page size': ({ source }) => {
    must(typeof source.name === 'string' && source.name !== '', 'the source has a name');
    must(Number.isInteger(Math.log2(source.pageSize)), `page size ${source.pageSize} is a power of two`);
    must(source.pageSize >= 4096, `page size ${source.pageSize} is 4096 or more`);
  },

  'returns memory of the requested size, naturally aligned': ({ source }) => {
    const target = device();
    for (const size of SIZES) {
      // Requests of another size in between change the position of the next one.
      for (const requested of [size, 1, size]) {
        const memory = got(source, target, requested);
        must(memory.size === requested, `requested ${requested} bytes, got ${memory.size}`);
        must(Number.isSafeInteger(memory.dma) && memory.dma >= 0, `dma ${memory.dma} is exact`);
        must(
          memory.dma % natural(source, requested) === 0,
          `${requested} bytes at ${memory.dma} are naturally aligned`,
        );
        must(memory.byteOffset % 8 === 0, `byteOffset ${memory.byteOffset} is a multiple of 8`);
        must(memory.byteOffset + requested <= memory.buffer.byteLength, 'the memory is inside its buffer');
        must(bytes(memory).length === requested, 'a view covers it');
      }
    }
  },

  'stays below the DMA mask, or returns null': ({ source }) => {
    for (const bits of [53, 48, 40, 33, 32, 31, 30, 24, 20, 16, 13]) {
      const mask = bits === 53 ? MASK_64 : 2 ** bits - 1;
      const target = device(mask);
      for (const size of SIZES) {
        const memory = source.allocCoherent({ device: target, size, node: -1 });
        if (memory === null) {
          must(bits < 53, 'a 64-bit device gets memory');
        } else {
          must(memory.dma + size - 1 <= mask, `${size} bytes at ${memory.dma} are below the mask of ${bits} bits`);
          source.freeCoherent(memory);
        }
      }
    }
  },

  'allocates no byte and no address twice': ({ source }) => {
    const target = device();
    const live: CoherentMemory[] = [];
    for (let round = 0; round < 60; round++) {
      live.push(got(source, target, SIZES[round % SIZES.length]!));
      if (round % 3 === 2) source.freeCoherent(live.splice((round * 7) % live.length, 1)[0]!);
    }
    live.forEach((memory, index) => bytes(memory).fill(index + 1));
    live.forEach((memory, index) => {
      const wrong = bytes(memory).findIndex((byte) => byte !== index + 1);
      must(wrong === -1, `byte ${wrong} of the memory at ${memory.dma} belongs to one allocation only`);
    });
    distinct(live, (memory) => memory.dma, 1, 'dma');
  },

  'returns zeroed memory, new and reused': ({ source }) => {
    const target = device();
    for (let round = 0; round < 3; round++) {
      const live = SIZES.map((size) => got(source, target, size));
      for (const memory of live) {
        // Check the whole pages: a device can write to all of them.
        const all = new Uint8Array(memory.buffer, memory.byteOffset, pagesOf(source, memory.size) * source.pageSize);
        must(
          all.every((byte) => byte === 0),
          `${memory.size} bytes at ${memory.dma} read zero in round ${round}`,
        );
        all.fill(0xa5);
      }
      for (const memory of live) source.freeCoherent(memory);
    }
  },

  'returns null when exhausted, and recovers': ({ source }) => {
    const target = device();
    for (const size of [source.pageSize, 5 * source.pageSize]) {
      let counts = 0;
      for (let round = 0; round < 2; round++) {
        const live = exhaust(source, target, size);
        must(live.length > 0, 'at least one allocation succeeds');
        must(round === 0 || live.length === counts, `all memory is reusable: ${live.length} of ${counts} allocations`);
        counts = live.length;
        must(source.allocCoherent({ device: target, size, node: -1 }) === null, 'a further call returns null too');
        distinct(live, (memory) => memory.dma, 1, 'dma');
        source.freeCoherent(live.pop()!);
        live.push(got(source, target, size));
        for (const memory of live.reverse()) source.freeCoherent(memory);
      }
    }
    const memory = got(source, target, 147456);
    source.freeCoherent(memory);
  },

  'refuses a second free': ({ source }) => {
    const target = device();
    const memory = got(source, target, 8192);
    source.freeCoherent(memory);
    mustRefuse(() => {
      source.freeCoherent(memory);
    }, 'a second free');
    const next = got(source, target, 8192);
    mustRefuse(() => {
      source.freeCoherent(memory);
    }, 'a second free after the memory was reallocated');
    bytes(next).fill(1);
    source.freeCoherent(next);
  },

  'refuses to free memory of another source': async ({ source, another }) => {
    const target = device();
    const memory = got(source, target, 4096);
    bytes(memory).fill(7);
    const { dma, size, buffer, byteOffset } = memory;
    mustRefuse(() => {
      source.freeCoherent({ dma, size, buffer, byteOffset });
    }, 'a copy of the memory object');
    const theirs = got(await another(), target, 4096);
    mustRefuse(() => {
      source.freeCoherent(theirs);
    }, 'memory of another source');
    must(
      bytes(memory).every((byte) => byte === 7),
      'refused frees leave the memory unchanged',
    );
    source.freeCoherent(memory);
  },

  'refuses invalid arguments without side effects': ({ source }) => {
    const target = device();
    for (const size of [0, -1, 1.5, NaN, Infinity, 2 ** 31, '4096', 4096n, null, undefined]) {
      mustThrow(
        () => source.allocCoherent({ device: target, size: size as number, node: -1 }),
        (error) => error instanceof DmaArgumentError,
        `size ${String(size)}`,
      );
    }
    must(
      source.allocCoherent({ device: target, size: 2 ** 31 - 1, node: -1 }) === null,
      'an excessive size returns null',
    );
    source.freeCoherent(got(source, target, 4096));
  },

  'never shares a page between devices': ({ source }) => {
    const targets = [device(), device(2 ** 32 - 1), device()];
    const live: CoherentMemory[] = [];
    for (let round = 0; round < 60; round++) {
      const target = targets[round % targets.length]!;
      const size = SIZES[(round * 5) % SIZES.length]!;
      const memory = source.allocCoherent({ device: target, size, node: -1 });
      if (memory !== null) live.push(memory);
      if (round % 4 === 3) source.freeCoherent(live.splice((round * 3) % live.length, 1)[0]!);
    }
    for (const buffer of new Set(live.map((memory) => memory.buffer))) {
      const inIt = live.filter((memory) => memory.buffer === buffer);
      distinct(inIt, (memory) => memory.byteOffset, source.pageSize, 'page of the buffer');
    }
  },

  'calls onceAvailable listeners once': ({ source }) => {
    if (source.onceAvailable === undefined) return;
    const target = device();
    let calls = 0;
    const one = got(source, target, 4096);
    const two = got(source, target, 4096);
    const three = got(source, target, 4096);
    source.onceAvailable(() => {
      calls++;
      throw new Error('a failing listener');
    });
    source.onceAvailable(() => {
      calls++;
    });
    const cancel = source.onceAvailable(() => {
      calls += 100;
    });
    cancel();
    cancel();
    source.freeCoherent(one);
    must(calls === 2, `both listeners are called, the second one after the first throws; counted ${calls}`);
    source.freeCoherent(two);
    must(calls === 2, 'listeners are called once');
    // The freed memory is available when the listener runs; all other memory is allocated.
    exhaust(source, target, source.pageSize);
    let again: CoherentMemory | null = null;
    source.onceAvailable(() => {
      again = source.allocCoherent({ device: target, size: 4096, node: -1 });
    });
    source.freeCoherent(three);
    must(again !== null, 'a listener can allocate');
  },
};

let made = 0;

function device(dmaMask: number = MASK_64): DmaTarget {
  return { name: `conformance-${made++}`, dmaMask };
}

function got(source: CoherentAllocator, target: DmaTarget, size: number): CoherentMemory {
  const memory = source.allocCoherent({ device: target, size, node: -1 });
  if (memory === null) throw new Error(`${source.name}: no memory for ${size} bytes`);
  return memory;
}

function exhaust(source: CoherentAllocator, target: DmaTarget, size: number): CoherentMemory[] {
  const live: CoherentMemory[] = [];
  for (;;) {
    const memory = source.allocCoherent({ device: target, size, node: -1 });
    if (memory === null) return live;
    live.push(memory);
  }
}

function bytes(memory: CoherentMemory): Uint8Array {
  return new Uint8Array(memory.buffer, memory.byteOffset, memory.size);
}

function pagesOf(source: CoherentAllocator, size: number): number {
  return Math.ceil(size / source.pageSize);
}

function natural(source: CoherentAllocator, size: number): number {
  let chunk = source.pageSize;
  while (chunk < size) chunk *= 2;
  return chunk;
}

/** Checks that no two ranges share a unit of `unit` bytes. */
function distinct(live: CoherentMemory[], start: (memory: CoherentMemory) => number, unit: number, what: string): void {
  const ranges = live
    .map((memory) => ({
      from: Math.floor(start(memory) / unit),
      to: Math.floor((start(memory) + memory.size - 1) / unit),
    }))
    .sort((a, b) => a.from - b.from);
  ranges.forEach((range, index) => {
    const next = ranges[index + 1];
    must(next === undefined || range.to < next.from, `${what} ${range.to} is allocated once`);
  });
}

function mustRefuse(action: () => void, what: string): void {
  mustThrow(
    action,
    (error) => error instanceof DmaMappingError && error.code === 'ERR_DMAPOOL_NOT_MAPPED',
    `${what} as ERR_DMAPOOL_NOT_MAPPED`,
  );
}

function mustThrow(action: () => unknown, accept: (error: unknown) => boolean, what: string): void {
  try {
    action();
  } catch (error) {
    must(accept(error), `${what} is refused; instead: ${describeThrown(error)}`);
    return;
  }
  throw new Error(`contract violated: ${what} is refused; nothing was thrown`);
}

function must(condition: boolean, clause: string): void {
  if (!condition) throw new Error(`contract violated: ${clause}`);
}
