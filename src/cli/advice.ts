/** What a pool's traffic says about its settings: from a trace, in figures and words. */
import { PoolGeometry } from '../index.ts';
import { type DecodedTrace, OPERATION } from '../trace/index.ts';

/** One finding, with its evidence. */
export interface Advice {
  /** What it is about. */
  readonly about: 'geometry' | 'limit' | 'reserve' | 'magazine' | 'holder' | 'tool';
  /** What to do; null if it is right as it is. */
  readonly change: string | null;
  /** Why, in figures. */
  readonly evidence: string;
}

/** What a trace says of one pool. */
export interface PoolAdvice {
  readonly pool: number;
  readonly device: string;
  readonly name: string;
  readonly figures: TrafficFigures;
  readonly advice: readonly Advice[];
}

/** Figures of a pool's traffic. */
export interface TrafficFigures {
  readonly allocations: number;
  readonly frees: number;
  /** Most blocks allocated at one time. */
  readonly peak: number;
  /** Blocks allocated at the end. */
  readonly atEnd: number;
  /** Most allocations in a row, without a free between. */
  readonly burst: number;
  /** Bytes of a block, of a page, and blocks of a page. */
  readonly blockSize: number;
  readonly pageBytes: number;
  readonly blocksPerPage: number;
  /** Pages that the peak takes. */
  readonly pages: number;
  /** Bytes of a page in no block, and those that a block has more than was asked for, of all its blocks. */
  readonly tail: number;
  readonly rounding: number;
  /** Blocks that were allocated in the first quarter and never freed. */
  readonly neverFreed: number;
}

/** From this part of a page unused it is worth a word. */
const NOTABLE_WASTE = 1 / 8;
/** Part of the calls that may go to the depot. */
const DEPOT_SHARE = 0.01;
/** Calls from which on a magazine can be chosen. */
const ENOUGH = 1000;
const MAGAZINES: readonly number[] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/** Advice for each pool of a trace that was used. */
export function adviseTrace(trace: DecodedTrace): PoolAdvice[] {
  // What a recorder of ours found allocated is no burst, and no holder.
  const heldBefore = (trace.header.fields.get('before') ?? '').split(' ').map(Number);
  return trace.pools.flatMap((create, i) => {
    const geometry = geometryOf(create);
    if (geometry === null) return [];
    const calls = callsOf(trace, i);
    const before = heldBefore[i] ?? 0;
    const figures = figuresOf(calls, before, geometry);
    if (calls.length === before) return [];
    const { device, name, pool } = create;
    const advice = [
      ...toolAdvice(geometry),
      ...geometryAdvice(geometry, figures),
      limitAdvice(figures),
      reserveAdvice(figures),
      magazineAdvice(calls.slice(before), figures),
      ...holderAdvice(figures),
    ];
    return [{ pool, device, name, figures, advice }];
  });
}

function geometryOf({ size, align, boundary }: { size: number; align: number; boundary: number }): PoolGeometry | null {
  try {
    return new PoolGeometry({ size, align, boundary });
  } catch {
    // No pool can have it; the replay says so.
    return null;
  }
}

/** Calls of a pool in order: a slot for an allocation, `-1 - slot` for a free. */
function callsOf({ operations, poolOf, slotOf }: DecodedTrace, pool: number): number[] {
  const calls: number[] = [];
  for (const [i, operation] of operations.entries()) {
    if (poolOf[i] !== pool) continue;
    if (operation === OPERATION.alloc || operation === OPERATION.zalloc) calls.push(slotOf[i]!);
    else if (operation === OPERATION.free) calls.push(-1 - slotOf[i]!);
  }
  return calls;
}

function figuresOf(calls: readonly number[], before: number, geometry: PoolGeometry): TrafficFigures {
  const { allocation, blockSize, blocksPerPage, size } = geometry;
  const since = new Map<number, number>();
  let allocations = 0;
  let peak = 0;
  let burst = 0;
  let row = 0;
  for (const [i, call] of calls.entries()) {
    if (call >= 0) {
      allocations++;
      since.set(call, i);
      peak = Math.max(peak, since.size);
      if (i >= before) burst = Math.max(burst, ++row);
    } else {
      since.delete(-1 - call);
      row = 0;
    }
  }
  const early = before + (calls.length - before) / 4;
  return {
    allocations: allocations - before,
    frees: calls.length - allocations,
    peak,
    atEnd: since.size,
    burst,
    blockSize,
    pageBytes: allocation,
    blocksPerPage,
    pages: Math.ceil(peak / blocksPerPage),
    tail: allocation - blocksPerPage * blockSize,
    rounding: (blockSize - size) * blocksPerPage,
    neverFreed: [...since.values()].filter((at) => at >= before && at < early).length,
  };
}

const percent = (part: number): string => `${(part * 100).toFixed(0)} %`;
const plural = (n: number, word: string): string => `${n.toLocaleString('en-US')} ${word}${n === 1 ? '' : 's'}`;

function toolAdvice({ blocksPerPage, blockSize, size }: PoolGeometry): Advice[] {
  if (blocksPerPage > 1) return [];
  const evidence = `one block of ${plural(blockSize, 'byte')} a page: the pool only keeps pages for reuse`;
  return [{ about: 'tool', change: `device.allocCoherent(${String(size)}) for blocks that live long`, evidence }];
}

function geometryAdvice(geometry: PoolGeometry, figures: TrafficFigures): Advice[] {
  const { align, boundary, size } = geometry;
  const { tail, rounding, pageBytes, blocksPerPage } = figures;
  const waste = (tail + rounding) / pageBytes;
  const evidence =
    `${plural(tail, 'byte')} of each page in no block, ${plural(rounding, 'byte')} by rounding ${String(size)} up to ` +
    `${String(figures.blockSize)}: ${percent(waste)} of ${plural(figures.pages, 'page')}`;
  if (waste < NOTABLE_WASTE) return [{ about: 'geometry', change: null, evidence }];
  const better = [
    { what: 'without the boundary', geometry: geometryOf({ size, align, boundary: 0 }) },
    { what: 'with align 16', geometry: geometryOf({ size, align: 16, boundary }) },
  ].find(({ geometry: other }) => other !== null && other.blocksPerPage > blocksPerPage);
  const change =
    better === undefined
      ? `blocks of at most ${String(nextSmaller(geometry))} bytes would fit ${String(blocksPerPage + 1)} to a page`
      : `${better.what}, if the device allows it, a page holds ${String(better.geometry!.blocksPerPage)} instead of ${String(blocksPerPage)}`;
  return [{ about: 'geometry', change, evidence }];
}

/** The largest size of which a page holds one block more. */
function nextSmaller({ align, boundary, blocksPerPage, size }: PoolGeometry): number {
  for (let smaller = size - 1; smaller > 0; smaller--) {
    const other = geometryOf({ size: smaller, align, boundary });
    if (other !== null && other.blocksPerPage > blocksPerPage) return smaller;
  }
  return size;
}

function limitAdvice({ peak, blocksPerPage, allocations }: TrafficFigures): Advice {
  // A quarter more than was ever needed, in whole pages.
  const limit = Math.ceil((peak * 1.25) / blocksPerPage) * blocksPerPage;
  return {
    about: 'limit',
    change: `maxBlocks: ${String(limit)}`,
    evidence: `at most ${plural(peak, 'block')} at one time in ${plural(allocations, 'allocation')}; a quarter more, in whole pages`,
  };
}

function reserveAdvice({ peak, pages, allocations, blocksPerPage }: TrafficFigures): Advice {
  const evidence = `${plural(pages, 'page')} for the peak of ${plural(peak, 'block')}, ${plural(blocksPerPage, 'block')} each`;
  // Who fills the pool once and keeps it takes each page once, at a time when it may.
  if (allocations <= peak * 2)
    return { about: 'reserve', change: null, evidence: `${evidence}; each block was taken about once` };
  return {
    about: 'reserve',
    change: `reserve(${String(peak)}) at the start, then grow: false takes no page in traffic`,
    evidence,
  };
}

/** Calls that exchange blocks with the depot, if one worker made all of them with a magazine of this size. */
export function depotCalls(calls: readonly number[], magazine: number): number {
  const half = magazine >> 1;
  let stock = 0;
  let exchanges = 0;
  for (const call of calls) {
    if (call >= 0) {
      if (stock === 0) {
        stock = half;
        exchanges++;
      }
      stock--;
    } else if (++stock > magazine) {
      stock -= half;
      exchanges++;
    }
  }
  return exchanges;
}

function magazineAdvice(calls: readonly number[], { burst }: TrafficFigures): Advice {
  const found = MAGAZINES.map((magazine) => ({ magazine, exchanges: depotCalls(calls, magazine) }));
  if (calls.length < ENOUGH) {
    return { about: 'magazine', change: null, evidence: `${plural(calls.length, 'call')}: too few to say` };
  }
  const best = found.find(({ exchanges }) => exchanges <= Math.max(1, calls.length * DEPOT_SHARE)) ?? found.at(-1)!;
  const least = found[0]!;
  return {
    about: 'magazine',
    change: `if it is shared: magazine: ${String(best.magazine)}`,
    evidence:
      `at most ${plural(burst, 'allocation')} in a row; ${plural(best.exchanges, 'exchange')} with the depot in ` +
      `${plural(calls.length, 'call')} of one worker, ${plural(least.exchanges, 'exchange')} with ${String(least.magazine)}`,
  };
}

function holderAdvice({ neverFreed, allocations, atEnd }: TrafficFigures): Advice[] {
  if (neverFreed === 0) return [];
  return [
    {
      about: 'holder',
      change: 'look who holds them: holders(pool), with debug: true by place',
      evidence:
        `${plural(neverFreed, 'block')} allocated in the first quarter of the trace ${neverFreed === 1 ? 'is' : 'are'} never freed ` +
        `(${plural(atEnd, 'block')} at the end, ${plural(allocations, 'allocation')} in all)`,
    },
  ];
}
