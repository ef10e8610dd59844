/** Where a thread's time goes, by V8's sampling profiler: to allocating and freeing, or to which part of the project. */
import { type Profiler, Session } from 'node:inspector/promises';

/** Microseconds from one sample to the next. */
const INTERVAL = 100;
/** Calls of a pool that take or give blocks. */
const CALLS = /^(try)?z?(alloc|free)(Index)?(Bulk)?$/i;
const POOL = /\/src\/pool\/[\w-]+\.[jt]s$/;

/** What was found. */
export interface CpuShare {
  /** Share of the time, 0 to 1, spent in calls that take or give blocks and all that they call. */
  readonly share: number;
  /** Samples in all, without those in which nothing ran. */
  readonly samples: number;
}

/** Profiles `action`, which does its work on this thread. */
export async function profileShare(action: () => Promise<void>): Promise<CpuShare> {
  return shareOf(await profileOf(action));
}

/** The same; gives the whole profile. @param interval Microseconds from one sample to the next. */
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

/** Counts samples in a profile: inlined calls have nodes of their own there. */
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
 * Parts of the time. `epoll`: the event loop waits for the system, or only asks it, as it does in each turn; `pci`: registers
 * and interrupts.
 */
export const PARTS = ['epoll', 'pci', 'driver', 'allocator', 'runtime', 'benchmark'] as const;
export type Part = (typeof PARTS)[number];
/** Share of each part, 0 to 1. */
export type TimeShares = Readonly<Record<Part, number>>;

/** By the path of a module. */
const MODULES: readonly (readonly [RegExp, Part])[] = [
  [/\/src\/(pci|linux)\//, 'pci'],
  [/\/drivers\//, 'driver'],
  [/\/src\/(pool|memory|device|shared)\//, 'allocator'],
  [/\/bench\//, 'benchmark'],
  // The event loop, promises.
  [/^node:/, 'runtime'],
];

function partOf({ url, functionName }: Profiler.ProfileNode['callFrame'], parent: Part): Part {
  if (functionName === '(idle)') return 'epoll';
  for (const [module, part] of MODULES) if (module.test(url)) return part;
  // What is native belongs to who called it; the engine's own work has nobody.
  return functionName.startsWith('(') ? 'runtime' : parent;
}

/** Counts the samples of a profile. */
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
