/** CPU time of a thread from V8's sampling profiler: the share of alloc and free, and of each part of the project. */
import { type Profiler, Session } from 'node:inspector/promises';

/** Sampling interval in microseconds. */
const INTERVAL = 100;
/** Pool methods that allocate or free blocks. */
const CALLS = /^(try)?(alloc|free)(Index)?(Bulk)?$/i;
const POOL = /\/src\/pool\/[\w-]+\.[jt]s$/;

/** The share of alloc and free. */
export interface CpuShare {
  /** Fraction of the time, 0 to 1, in calls that allocate or free blocks, callees included. */
  readonly share: number;
  /** Number of samples, without idle ones. */
  readonly samples: number;
}

/** Profiles `action`, which must run on this thread. */
export async function profileShare(action: () => Promise<void>): Promise<CpuShare> {
  return shareOf(await profileOf(action));
}

/** Returns the whole profile of `action`. @param interval Sampling interval in microseconds. */
export async function profileOf(action: () => Promise<void>, interval: number = INTERVAL): Promise<Profiler.Profile> {
  const session = new Session();
  session.connect();
  try {
    await session.post('Profiler.enable');
    await session.post('Profiler.setSamplingInterval', { interval });
    await session.post('Profiler.start');
    await action();
    const { profile } = await session.post('Profiler.stop');
    return profile;
  } finally {
    session.disconnect();
  }
}

/** Computes the share from a profile, where inlined calls have their own nodes. */
export function shareOf(profile: Profiler.Profile): CpuShare {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const inCalls = new Map<number, boolean>();
  const mark = (id: number, within: boolean): void => {
    const { callFrame, children = [] } = byId.get(id)!;
    const here = within || (POOL.test(callFrame.url) && CALLS.test(callFrame.functionName));
    inCalls.set(id, here);
    for (const child of children) mark(child, here);
  };
  mark(profile.nodes[0]!.id, false);
  let samples = 0;
  let inside = 0;
  for (const { id, callFrame, hitCount = 0 } of profile.nodes) {
    if (callFrame.functionName === '(idle)') continue;
    samples += hitCount;
    if (inCalls.get(id) === true) inside += hitCount;
  }
  return { share: samples === 0 ? 0 : inside / samples, samples };
}

/**
 * Parts of the time. `epoll`: the event loop waits for events, or polls for them once a turn; `pci`: registers and
 * interrupts.
 */
export const PARTS = ['epoll', 'pci', 'driver', 'allocator', 'runtime', 'benchmark'] as const;
export type Part = (typeof PARTS)[number];
/** Share of each part, 0 to 1. */
export type TimeShares = Readonly<Record<Part, number>>;

/** Parts by module path. */
const MODULES: readonly (readonly [RegExp, Part])[] = [
  [/\/src\/(pci|linux)\//, 'pci'],
  [/\/drivers\//, 'driver'],
  [/\/src\/(pool|memory|device|shared)\//, 'allocator'],
  [/\/bench\//, 'benchmark'],
  // The event loop and promises.
  [/^node:/, 'runtime'],
];

function partOf({ url, functionName }: Profiler.ProfileNode['callFrame'], parent: Part): Part {
  if (functionName === '(idle)') return 'epoll';
  for (const [module, part] of MODULES) if (module.test(url)) return part;
  // Native code belongs to its caller; the engine's own work has none.
  return functionName.startsWith('(') ? 'runtime' : parent;
}

/** Computes the share of each part from a profile. */
export function timeSharesOf(profile: Profiler.Profile): TimeShares {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]));
  const samples: Record<Part, number> = { epoll: 0, pci: 0, driver: 0, allocator: 0, runtime: 0, benchmark: 0 };
  let all = 0;
  const count = (id: number, parent: Part): void => {
    const { callFrame, hitCount = 0, children = [] } = byId.get(id)!;
    const part = partOf(callFrame, parent);
    samples[part] += hitCount;
    all += hitCount;
    for (const child of children) count(child, part);
  };
  count(profile.nodes[0]!.id, 'runtime');
  for (const part of PARTS) samples[part] /= Math.max(all, 1);
  return samples;
}
