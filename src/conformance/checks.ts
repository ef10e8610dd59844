/**
 * What every memory source must do: the promises of `CoherentAllocator`, as checks.
 *
 * A check is a named async function that throws when the source breaks the promise. It knows no test runner; an
 * adapter registers the checks with one.
 */

import { checkFunction, checkObject, reading } from '../arguments.ts';
import { describeThrown, DmaArgumentError, DmaMappingError } from '../errors.ts';
import type { CoherentAllocator, CoherentMemory, DmaTarget } from '../memory/coherent.ts';

/** How the checks get at the source; see {@link conformanceChecks}. */
export interface SourceFactory {
  /**
   * Makes a new, unused source. Some of its memory suits a device of 64 bits. Its capacity is at least 4 MiB and small
   * enough to be exhausted page by page: 64 MiB or less is sensible.
   */
  create(): CoherentAllocator | Promise<CoherentAllocator>;
  /** Called once with each `source` created, when its check is over. */
  close?(source: CoherentAllocator): void | Promise<void>;
}

/** One promise of a source, and how to check it; from {@link conformanceChecks}. */
export interface ConformanceCheck {
  /** The promise, such as `gives zeroed memory, new and used`: the name of a test. */
  readonly name: string;
  /** Checks it on sources of its own. Rejects with an error that says which promise is broken, and how. */
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
 * The checks for the sources that `factory` makes: all that `CoherentAllocator` promises. Each check makes its own sources,
 * so they may run in any order, or one alone. Checks know no test runner.
 *
 * @param factory Makes sources, and ends them.
 * @returns The checks; each `run` rejects with an error that says which promise is broken.
 * @example
 * ```ts
 * for (const { name, run } of conformanceChecks({ create: () => new HeapMemory({ limit: 16 * 1024 * 1024 }) })) {
 *   await run(); // or: test(name, run), it(name, run), Deno.test(name, run)
 *   console.log(`ok: ${name}`);
 * }
 * ```
 */
export function conformanceChecks(factory: SourceFactory): readonly ConformanceCheck[] {
  const accepted = 'an object with a function create, and perhaps one close';
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
  'says its name and page size': ({ source }) => {
    must(typeof source.name === 'string' && source.name !== '', 'the source has a name');
    must(Number.isInteger(Math.log2(source.pageSize)), `page size ${source.pageSize} is a power of two`);
    must(source.pageSize >= 4096, `page size ${source.pageSize} is 4096 or more`);
  },

  'gives what was asked for, naturally aligned': ({ source }) => {
    const target = device();
    for (const size of SIZES) {
      // Twice, the other way round as well, so that alignment is not the luck of the order.
      for (const asked of [size, 1, size]) {
        const memory = got(source, target, asked);
        must(memory.size === asked, `asked for ${asked} bytes, got ${memory.size}`);
        must(Number.isSafeInteger(memory.dma) && memory.dma >= 0, `dma ${memory.dma} is exact`);
        must(memory.dma % natural(source, asked) === 0, `${asked} bytes at ${memory.dma} are naturally aligned`);
        must(memory.byteOffset % 8 === 0, `byteOffset ${memory.byteOffset} is a multiple of 8`);
        must(memory.byteOffset + asked <= memory.buffer.byteLength, 'the memory is inside its buffer');
        must(bytes(memory).length === asked, 'a view of it can be made');
      }
    }
  },

  'stays below the mask, or gives nothing': ({ source }) => {
    for (const bits of [53, 48, 40, 33, 32, 31, 30, 24, 20, 16, 13]) {
      const mask = bits === 53 ? MASK_64 : 2 ** bits - 1;
      const target = device(mask);
      for (const size of SIZES) {
        const memory = source.allocCoherent({ device: target, size, node: -1 });
        if (memory === null) {
          must(bits < 53, 'a device of 64 bits gets memory');
        } else {
          must(memory.dma + size - 1 <= mask, `${size} bytes at ${memory.dma} are below the mask of ${bits} bits`);
          source.freeCoherent(memory);
        }
      }
    }
  },

  'gives no byte and no address twice': ({ source }) => {
    const target = device();
    const live: CoherentMemory[] = [];
    for (let round = 0; round < 60; round++) {
      live.push(got(source, target, SIZES[round % SIZES.length]!));
      if (round % 3 === 2) source.freeCoherent(live.splice((round * 7) % live.length, 1)[0]!);
    }
    live.forEach((memory, index) => bytes(memory).fill(index + 1));
    live.forEach((memory, index) => {
      const wrong = bytes(memory).findIndex((byte) => byte !== index + 1);
      must(wrong === -1, `byte ${wrong} of the memory at ${memory.dma} is also somebody else's`);
    });
    distinct(live, (memory) => memory.dma, 1, 'dma');
  },

  'gives zeroed memory, new and used': ({ source }) => {
    const target = device();
    for (let round = 0; round < 3; round++) {
      const live = SIZES.map((size) => got(source, target, size));
      for (const memory of live) {
        // The whole of its pages, as a device could have written there.
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

  'can be exhausted, says so with null, and recovers': ({ source }) => {
    const target = device();
    for (const size of [source.pageSize, 5 * source.pageSize]) {
      let counts = 0;
      for (let round = 0; round < 2; round++) {
        const live = exhaust(source, target, size);
        must(live.length > 0, 'there was something to exhaust');
        must(round === 0 || live.length === counts, `as much as before came back: ${live.length} of ${counts}`);
        counts = live.length;
        must(source.allocCoherent({ device: target, size, node: -1 }) === null, 'null again when asked again');
        distinct(live, (memory) => memory.dma, 1, 'dma');
        source.freeCoherent(live.pop()!);
        live.push(got(source, target, size));
        for (const memory of live.reverse()) source.freeCoherent(memory);
      }
    }
    const memory = got(source, target, 147456);
    source.freeCoherent(memory);
  },

  'refuses to free twice': ({ source }) => {
    const target = device();
    const memory = got(source, target, 8192);
    source.freeCoherent(memory);
    mustRefuse(() => {
      source.freeCoherent(memory);
    }, 'a second free');
    const next = got(source, target, 8192);
    mustRefuse(() => {
      source.freeCoherent(memory);
    }, 'a second free, the memory being in use again');
    bytes(next).fill(1);
    source.freeCoherent(next);
  },

  'refuses to free what it did not give': async ({ source, another }) => {
    const target = device();
    const memory = got(source, target, 4096);
    bytes(memory).fill(7);
    const { dma, size, buffer, byteOffset } = memory;
    mustRefuse(() => {
      source.freeCoherent({ dma, size, buffer, byteOffset });
    }, 'a look-alike');
    const theirs = got(await another(), target, 4096);
    mustRefuse(() => {
      source.freeCoherent(theirs);
    }, 'memory of another source');
    must(
      bytes(memory).every((byte) => byte === 7),
      'nothing happened to the memory',
    );
    source.freeCoherent(memory);
  },

  'refuses wrong arguments, and loses nothing by them': ({ source }) => {
    const target = device();
    for (const size of [0, -1, 1.5, NaN, Infinity, 2 ** 31, '4096', 4096n, null, undefined]) {
      mustThrow(
        () => source.allocCoherent({ device: target, size: size as number, node: -1 }),
        (error) => error instanceof DmaArgumentError,
        `size ${String(size)}`,
      );
    }
    must(source.allocCoherent({ device: target, size: 2 ** 31 - 1, node: -1 }) === null, 'too much is null');
    source.freeCoherent(got(source, target, 4096));
  },

  'never lets a page serve two devices': ({ source }) => {
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

  'wakes those who wait, once': ({ source }) => {
    if (source.onceAvailable === undefined) return;
    const target = device();
    let calls = 0;
    const one = got(source, target, 4096);
    const two = got(source, target, 4096);
    const three = got(source, target, 4096);
    source.onceAvailable(() => {
      calls++;
      throw new Error('a listener that fails');
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
    must(calls === 2, `both were called, also after the failing one; counted ${calls}`);
    source.freeCoherent(two);
    must(calls === 2, 'once only');
    // Memory is there again when the listener runs, and there is no other.
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

/** No two ranges share a unit of `unit` bytes. */
function distinct(live: CoherentMemory[], start: (memory: CoherentMemory) => number, unit: number, what: string): void {
  const ranges = live
    .map((memory) => ({
      from: Math.floor(start(memory) / unit),
      to: Math.floor((start(memory) + memory.size - 1) / unit),
    }))
    .sort((a, b) => a.from - b.from);
  ranges.forEach((range, index) => {
    const next = ranges[index + 1];
    must(next === undefined || range.to < next.from, `${what} ${range.to} is handed out twice`);
  });
}

function mustRefuse(action: () => void, what: string): void {
  mustThrow(
    action,
    (error) => error instanceof DmaMappingError && error.code === 'ERR_DMAPOOL_NOT_MAPPED',
    `${what} as ERR_DMAPOOL_NOT_MAPPED`,
  );
}

function mustThrow(action: () => unknown, right: (error: unknown) => boolean, what: string): void {
  try {
    action();
  } catch (error) {
    must(right(error), `${what} is refused; instead: ${describeThrown(error)}`);
    return;
  }
  throw new Error(`broken promise: ${what} is refused; nothing was thrown`);
}

function must(condition: boolean, promise: string): void {
  if (!condition) throw new Error(`broken promise: ${promise}`);
}
