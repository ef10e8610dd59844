/** Derives settings of a pool from its traffic in a trace. */
import { PoolGeometry } from '../index.ts';
import { type DecodedTrace, OPERATION } from '../trace/index.ts';

/** One finding, with its evidence. */
export interface Advice {
  /** Subject. */
  readonly about: 'geometry' | 'limit' | 'reserve' | 'magazine' | 'holder' | 'tool';
  /** Recommended change; null for none. */
  readonly change: string | null;
  /** The figures behind it. */
  readonly evidence: string;
}

/** The findings for one pool of a trace. */
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
  /** Highest number of allocated blocks. */
  readonly peak: number;
  /** Blocks allocated at the end. */
  readonly atEnd: number;
  /** Longest sequence of allocations without a free. */
  readonly burst: number;
  readonly blockSize: number;
  readonly pageBytes: number;
  readonly blocksPerPage: number;
  /** Pages needed for the peak. */
  readonly pages: number;
  /** Bytes of a page outside all blocks. */
  readonly tail: number;
  /** Bytes of a page lost because the block size was rounded up. */
  readonly rounding: number;
  /** Blocks that were allocated in the first quarter and never freed. */
  readonly neverFreed: number;
  /** Their allocation sites, most blocks first. Empty if the trace has no sites. */
  readonly neverFreedAt: readonly SiteCount[];
}

/** An allocation site and its number of blocks. */
export interface SiteCount {
  readonly site: string;
  readonly count: number;
}

/** Fraction of unused bytes from which the command recommends a change. */
const NOTABLE_WASTE = 1 / 8;
/** Accepted fraction of calls that exchange blocks with the depot. */
const DEPOT_SHARE = 0.01;
/** Calls needed to choose a magazine. */
const ENOUGH = 1000;
/** Limit of sites in a finding. */
const NAMED = 4;
const MAGAZINES: readonly number[] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/**
 * Advice for each pool with calls in a trace.
 *
 * @param sites The site of each alloc, by line number.
 */
export function adviseTrace(trace: DecodedTrace, sites: ReadonlyMap<number, string> = new Map()): PoolAdvice[] {
  // Allocations before the recording count neither as a burst nor as blocks that are never freed.
  const heldBefore = (trace.header.fields.get('before') ?? '').split(' ').map(Number);
  return trace.pools.flatMap((create, i) => {
    const geometry = geometryOf(create);
    if (geometry === null) return [];
    const calls = callsOf(trace, i);
    const before = heldBefore[i] ?? 0;
    if (calls.length === before) return [];
    const figures = figuresOf(calls, before, geometry, sites);
    const { device, name, pool } = create;
    const advice = [
      ...toolAdvice(geometry),
      ...geometryAdvice(geometry, figures),
      limitAdvice(figures),
      reserveAdvice(figures),
      magazineAdvice(
        calls.slice(before).map(({ slot, isFree }) => (isFree ? -1 - slot : slot)),
        figures,
      ),
      ...holderAdvice(figures),
    ];
    return [{ pool, device, name, figures, advice }];
  });
}

function geometryOf({ size, align, boundary }: { size: number; align: number; boundary: number }): PoolGeometry | null {
  try {
    return new PoolGeometry({ size, align, boundary });
  } catch {
    // Invalid in this package; `dmapool replay` reports it.
    return null;
  }
}

interface Call {
  readonly isFree: boolean;
  /** Identifies the block in the trace. */
  readonly slot: number;
  /** Line number. */
  readonly line: number;
}

/** The allocations and frees of a pool, in order. */
function callsOf({ operations, poolOf, slotOf, lineOf }: DecodedTrace, pool: number): Call[] {
  const calls: Call[] = [];
  for (const [i, operation] of operations.entries()) {
    if (poolOf[i] !== pool) continue;
    const isFree = operation === OPERATION.free;
    if (!isFree && operation !== OPERATION.alloc && operation !== OPERATION.zalloc) continue;
    calls.push({ isFree, slot: slotOf[i]!, line: lineOf[i]! });
  }
  return calls;
}

function figuresOf(
  calls: readonly Call[],
  before: number,
  geometry: PoolGeometry,
  sites: ReadonlyMap<number, string>,
): TrafficFigures {
  const { allocation, blockSize, blocksPerPage, size } = geometry;
  /** For each allocated block, the position of its allocation in `calls`. */
  const since = new Map<number, number>();
  let allocations = 0;
  let peak = 0;
  let burst = 0;
  let row = 0;
  for (const [i, { isFree, slot }] of calls.entries()) {
    if (isFree) {
      since.delete(slot);
      row = 0;
    } else {
      allocations++;
      since.set(slot, i);
      peak = Math.max(peak, since.size);
      if (i >= before) burst = Math.max(burst, ++row);
    }
  }
  const early = before + (calls.length - before) / 4;
  const neverFreed = [...since.values()].filter((at) => at >= before && at < early);
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
    neverFreed: neverFreed.length,
    neverFreedAt: countSites(neverFreed.flatMap((at) => sites.get(calls[at]!.line) ?? [])),
  };
}

function countSites(sites: readonly string[]): SiteCount[] {
  const counts = new Map<string, number>();
  for (const site of sites) counts.set(site, (counts.get(site) ?? 0) + 1);
  return [...counts].map(([site, count]) => ({ site, count })).sort((a, b) => b.count - a.count);
}

const percent = (part: number): string => `${(part * 100).toFixed(0)} %`;
const plural = (n: number, word: string): string => `${n.toLocaleString('en-US')} ${word}${n === 1 ? '' : 's'}`;

function toolAdvice({ blocksPerPage, blockSize, size }: PoolGeometry): Advice[] {
  if (blocksPerPage > 1) return [];
  const evidence = `one block of ${plural(blockSize, 'byte')} in a page: the pool only keeps pages for reuse`;
  return [{ about: 'tool', change: `device.allocCoherent(${String(size)}) for blocks that live long`, evidence }];
}

function geometryAdvice(geometry: PoolGeometry, figures: TrafficFigures): Advice[] {
  const { align, boundary, size } = geometry;
  const { tail, rounding, pageBytes, blocksPerPage } = figures;
  const waste = (tail + rounding) / pageBytes;
  const evidence =
    `${plural(tail, 'byte')} of each page outside all blocks, ${plural(rounding, 'byte')} by rounding ${String(size)} up to ` +
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

/** The largest block size that puts one more block into a page. */
function nextSmaller({ align, boundary, blocksPerPage, size }: PoolGeometry): number {
  for (let smaller = size - 1; smaller > 0; smaller--) {
    const other = geometryOf({ size: smaller, align, boundary });
    if (other !== null && other.blocksPerPage > blocksPerPage) return smaller;
  }
  return size;
}

function limitAdvice({ peak, blocksPerPage, allocations }: TrafficFigures): Advice {
  // The peak and a quarter, in whole pages.
  const limit = Math.ceil((peak * 1.25) / blocksPerPage) * blocksPerPage;
  return {
    about: 'limit',
    change: `maxBlocks: ${String(limit)}`,
    evidence: `at most ${plural(peak, 'block')} at one time in ${plural(allocations, 'allocation')}; a quarter more, in whole pages`,
  };
}

function reserveAdvice({ peak, pages, allocations, blocksPerPage }: TrafficFigures): Advice {
  const evidence = `${plural(pages, 'page')} for the peak of ${plural(peak, 'block')}, ${plural(blocksPerPage, 'block')} each`;
  // A driver that allocates each block once at its start takes no page in traffic.
  if (allocations <= peak * 2)
    return { about: 'reserve', change: null, evidence: `${evidence}; each block was taken about once` };
  return {
    about: 'reserve',
    change: `reserve(${String(peak)}) at the start, then grow: false takes no page in traffic`,
    evidence,
  };
}

/** Calls of one worker that exchange blocks with the depot, for a magazine size. `calls`: negative for a free. */
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
    return { about: 'magazine', change: null, evidence: `${plural(calls.length, 'call')}: too few to choose one` };
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

function holderAdvice({ neverFreed, neverFreedAt, allocations, atEnd }: TrafficFigures): Advice[] {
  if (neverFreed === 0) return [];
  const sites = neverFreedAt.slice(0, NAMED).map(({ site, count }) => `; ${count.toLocaleString('en-US')} at ${site}`);
  return [
    {
      about: 'holder',
      change: 'find the code that holds them: holders(pool), in debug mode by allocation site',
      evidence:
        `${plural(neverFreed, 'block')} allocated in the first quarter of the trace ${neverFreed === 1 ? 'is' : 'are'} never freed ` +
        `(${plural(atEnd, 'block')} at the end, ${plural(allocations, 'allocation')} in all)${sites.join('')}`,
    },
  ];
}
